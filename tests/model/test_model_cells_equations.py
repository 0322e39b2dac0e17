"""The cells against independent references: torch's own modules, and the papers' equations transcribed in numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.cells import CellState, RecurrentLayer, build_cell

TIME, ROWS, INPUTS, HIDDEN = 5, 3, 4, 3

Array = NDArray[np.float64]
Weights = dict[str, Array]
# Inputs, hidden state and cell to the next hidden state, the next cell and the gates.
Equations = Callable[[Weights, Array, Array, Array], tuple[Array, Array, dict[str, Array]]]


def lively(kind: str) -> RecurrentLayer:
    torch.manual_seed(1)
    layer = build_cell(kind, INPUTS, HIDDEN).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += torch.randn_like(parameter) * 0.5
    return layer


@pytest.fixture
def sequence() -> Tensor:
    torch.manual_seed(2)
    return torch.randn(TIME, ROWS, INPUTS, dtype=torch.float64)


def random_state(layer: RecurrentLayer) -> CellState:
    torch.manual_seed(3)
    return layer.begin(*torch.randn(layer.parts, ROWS, HIDDEN, dtype=torch.float64))


def as_torch(kind: str, layer: RecurrentLayer) -> nn.RNNBase:
    """torch's module with the layer's weights."""
    module = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}[kind](INPUTS, HIDDEN).double()
    second_bias = torch.zeros_like(module.bias_hh_l0)
    if kind == "gru":
        second_bias[2 * HIDDEN :] = layer.candidate_bias
    weights = [layer.weight_ih, layer.weight_hh, layer.bias, second_bias]
    with torch.no_grad():
        for parameter, weight in zip(module.parameters(), weights, strict=True):
            parameter.copy_(weight)
    return module


@pytest.mark.parametrize("kind", ["rnn", "gru", "lstm"])
class TestAgainstTorch:
    """Outputs, last states and the gradients of the weights."""

    def test_forward(self, kind: str, sequence: Tensor) -> None:
        layer = lively(kind)
        state = random_state(layer)
        given = tuple(part[None] for part in state) if kind == "lstm" else state.hidden[None]
        expected, last = as_torch(kind, layer)(sequence, given)
        found, end = layer(sequence, state)
        torch.testing.assert_close(found, expected)
        expected_parts = [last[0][0], last[1][0]] if kind == "lstm" else [last[0]]
        torch.testing.assert_close([part for part in end if part.numel()], expected_parts)

    def test_gradients(self, kind: str, sequence: Tensor) -> None:
        layer = lively(kind)
        reference = as_torch(kind, layer)
        layer(sequence, layer.start(ROWS))[0].square().sum().backward()
        reference(sequence)[0].square().sum().backward()
        torch.testing.assert_close(layer.weight_ih.grad, reference.weight_ih_l0.grad)
        torch.testing.assert_close(layer.weight_hh.grad, reference.weight_hh_l0.grad)
        torch.testing.assert_close(layer.bias.grad, reference.bias_ih_l0.grad)
        if kind == "gru":
            torch.testing.assert_close(layer.candidate_bias.grad, reference.bias_hh_l0.grad[2 * HIDDEN :])


def sigmoid(values: Array) -> Array:
    result: Array = 1 / (1 + np.exp(-values))
    return result


def normalise(values: Array) -> Array:
    """Over the last dimension to mean 0 and variance 1 (Ba et al. 2016, equation 17)."""
    centred = values - values.mean(axis=-1, keepdims=True)
    result: Array = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
    return result


def split(values: Array, count: int) -> list[Array]:
    return np.split(values, count, axis=-1)


def rnn(w: Weights, x: Array, h: Array, c: Array) -> tuple[Array, Array, dict[str, Array]]:
    """Elman 1990."""
    return np.tanh(x @ w["weight_ih"].T + h @ w["weight_hh"].T + w["bias"]), c, {}


def gru(w: Weights, x: Array, h: Array, c: Array) -> tuple[Array, Array, dict[str, Array]]:
    """Cho et al. 2014 with the reset after the product, as torch's documentation of nn.GRU gives it."""
    w_r, w_z, w_n = np.split(w["weight_ih"], 3)
    u_r, u_z, u_n = np.split(w["weight_hh"], 3)
    b_r, b_z, b_n = np.split(w["bias"], 3)
    r = sigmoid(x @ w_r.T + h @ u_r.T + b_r)
    z = sigmoid(x @ w_z.T + h @ u_z.T + b_z)
    n = np.tanh(x @ w_n.T + b_n + r * (h @ u_n.T + w["candidate_bias"]))
    return (1 - z) * n + z * h, c, {"reset": r, "update": z}


def lstm(w: Weights, x: Array, h: Array, c: Array) -> tuple[Array, Array, dict[str, Array]]:
    """Gers et al. 2000."""
    i, f, g, o = split(x @ w["weight_ih"].T + h @ w["weight_hh"].T + w["bias"], 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c, {"input": sigmoid(i), "forget": sigmoid(f), "output": sigmoid(o)}


def peephole_lstm(w: Weights, x: Array, h: Array, c: Array) -> tuple[Array, Array, dict[str, Array]]:
    """Graves 2013, equations 7 to 11, whose peephole matrices are diagonal."""
    p_i, p_f, p_o = (np.diag(row) for row in w["peepholes"])
    i, f, g, o = split(x @ w["weight_ih"].T + h @ w["weight_hh"].T + w["bias"], 4)
    i, f = sigmoid(i + c @ p_i), sigmoid(f + c @ p_f)
    c = f * c + i * np.tanh(g)
    o = sigmoid(o + c @ p_o)
    return o * np.tanh(c), c, {"input": i, "forget": f, "output": o}


def layernorm_lstm(w: Weights, x: Array, h: Array, c: Array) -> tuple[Array, Array, dict[str, Array]]:
    """Ba et al. 2016, equations 20 to 22."""
    new = w["gain_ih"] * normalise(x @ w["weight_ih"].T)
    old = w["gain_hh"] * normalise(h @ w["weight_hh"].T)
    i, f, g, o = split(new + old + w["bias"], 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(w["gain_cell"] * normalise(c) + w["bias_cell"])
    return h, c, {"input": sigmoid(i), "forget": sigmoid(f), "output": sigmoid(o)}


def ssru(w: Weights, x: Array, h: Array, c: Array) -> tuple[Array, Array, dict[str, Array]]:
    """Kim et al. 2019, section 3."""
    w_f, w_v = np.split(w["weight_ih"], 2)
    f = sigmoid(x @ w_f.T + w["bias"])
    c = f * c + (1 - f) * (x @ w_v.T)
    return np.maximum(c, 0), c, {"forget": f}


@torch.no_grad()
@pytest.mark.parametrize("equations", [rnn, gru, lstm, peephole_lstm, layernorm_lstm, ssru])
def test_it_equals_the_equations(equations: Equations, sequence: Tensor) -> None:
    """Outputs, last state and the gates of every position."""
    layer = lively(equations.__name__)
    state = random_state(layer)
    outputs, last = layer(sequence, state)
    weights = {name: weight.numpy() for name, weight in layer.named_parameters()}
    hidden, cell = (part.numpy() for part in state)
    for inputs, output in zip(sequence, outputs, strict=True):
        found = layer.gates(inputs, CellState(torch.from_numpy(hidden), torch.from_numpy(cell)))
        hidden, cell, gates = equations(weights, inputs.numpy(), hidden, cell)
        np.testing.assert_allclose(output.numpy(), hidden, atol=1e-12)
        assert found.keys() == gates.keys()
        for name, gate in gates.items():
            np.testing.assert_allclose(found[name].numpy(), gate, atol=1e-12)
    np.testing.assert_allclose(last.hidden.numpy(), hidden, atol=1e-12)
    np.testing.assert_allclose(last.cell.numpy(), cell, atol=1e-12)
