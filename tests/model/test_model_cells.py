"""The LSTM layer: against torch.nn.LSTM, against a transcription of its equations, and against itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from model.cells import CellState, LSTMLayer

TIME, ROWS, INPUTS, HIDDEN = 7, 3, 5, 4


@pytest.fixture
def layer() -> LSTMLayer:
    torch.manual_seed(1)
    layer = LSTMLayer(INPUTS, HIDDEN)
    nn.init.normal_(layer.bias)
    return layer


@pytest.fixture
def sequence() -> torch.Tensor:
    torch.manual_seed(2)
    return torch.randn(TIME, ROWS, INPUTS)


@pytest.fixture
def state() -> CellState:
    torch.manual_seed(3)
    return CellState(torch.randn(ROWS, HIDDEN), torch.randn(ROWS, HIDDEN))


def as_torch(layer: LSTMLayer) -> nn.LSTM:
    reference = nn.LSTM(layer.inputs, layer.hidden)
    with torch.no_grad():
        reference.weight_ih_l0.copy_(layer.weight_ih)
        reference.weight_hh_l0.copy_(layer.weight_hh)
        reference.bias_ih_l0.copy_(layer.bias)
        reference.bias_hh_l0.zero_()
    return reference


def test_forward_equals_torch(layer: LSTMLayer, sequence: torch.Tensor, state: CellState) -> None:
    output, last = layer(sequence, state)
    expected, (hidden, cell) = as_torch(layer)(sequence, (state.hidden[None], state.cell[None]))
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(last.hidden, hidden[0])
    torch.testing.assert_close(last.cell, cell[0])


def test_gradients_equal_those_of_torch(layer: LSTMLayer, sequence: torch.Tensor, state: CellState) -> None:
    reference = as_torch(layer)
    layer(sequence, state)[0].square().sum().backward()
    reference(sequence, (state.hidden[None], state.cell[None]))[0].square().sum().backward()
    torch.testing.assert_close(layer.weight_ih.grad, reference.weight_ih_l0.grad)
    torch.testing.assert_close(layer.weight_hh.grad, reference.weight_hh_l0.grad)
    torch.testing.assert_close(layer.bias.grad, reference.bias_ih_l0.grad)


def sigmoid(values: NDArray[np.floating]) -> NDArray[np.floating]:
    return 1 / (1 + np.exp(-values))


@torch.no_grad()
def test_forward_equals_the_equations(layer: LSTMLayer, sequence: torch.Tensor, state: CellState) -> None:
    input_weights, recurrent_weights, bias = (parameter.numpy() for parameter in layer.parameters())
    hidden, cell = (part.numpy() for part in state)
    outputs = []
    for inputs in sequence.numpy():
        gates = inputs @ input_weights.T + hidden @ recurrent_weights.T + bias
        write, forget, candidate, read = np.split(gates, 4, axis=1)
        cell = sigmoid(forget) * cell + sigmoid(write) * np.tanh(candidate)
        hidden = sigmoid(read) * np.tanh(cell)
        outputs.append(hidden)
    np.testing.assert_allclose(layer(sequence, state)[0].numpy(), np.stack(outputs), atol=1e-5)


def test_stepping_equals_forward(layer: LSTMLayer, sequence: torch.Tensor, state: CellState) -> None:
    output, last = layer(sequence, state)
    stepped = []
    for inputs in sequence:
        state = layer.step(inputs, state)
        stepped.append(state.hidden)
    torch.testing.assert_close(torch.stack(stepped), output, atol=1e-5, rtol=0)
    torch.testing.assert_close(state.cell, last.cell, atol=1e-5, rtol=0)


def test_it_starts_from_zeros(layer: LSTMLayer) -> None:
    state = layer.start(2)
    assert state.hidden.shape == state.cell.shape == (2, HIDDEN)
    assert not state.hidden.any() and not state.cell.any()


def test_it_begins_by_remembering() -> None:
    """Forget bias 1, other biases 0, recurrent weights orthogonal in each gate."""
    layer = LSTMLayer(INPUTS, HIDDEN)
    _, forget, *_ = layer.bias.chunk(4)
    assert forget.tolist() == [1.0] * HIDDEN
    assert layer.bias.sum().item() == HIDDEN
    for gate in layer.weight_hh.chunk(4):
        torch.testing.assert_close(gate @ gate.T, torch.eye(HIDDEN))
