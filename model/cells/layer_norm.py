"""The LSTM that normalises its gates and its cell; its pass through time and back is written out here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from model.cells.gradients import through_cell, through_sigmoid, through_tanh
from model.cells.layer import CellState, LSTMKind

EPSILON = 1e-5  # added to the variance


class LayerNormLSTMLayer(LSTMKind):
    """Layer-normalised LSTM (Ba et al. 2016, equations 20 to 22), N being normalisation to mean 0 and variance 1::

        i, f, g, o = split(a_x * N(W_ih x_t) + a_h * N(W_hh h_{t-1}) + b)
        c_t = sigmoid(f) * c_{t-1} + sigmoid(i) * tanh(g)
        h_t = sigmoid(o) * tanh(a_c * N(c_t) + b_c)

    As in the paper all four blocks are normalised as one vector. Its three biases of the gates are one here.
    Gains begin at 1.
    """

    def __init__(self, inputs: int, hidden: int, recurrent_dropout: float = 0.0) -> None:
        super().__init__(inputs, hidden, recurrent_dropout)
        self.gain_ih = nn.Parameter(torch.ones(4 * hidden))
        self.gain_hh = nn.Parameter(torch.ones(4 * hidden))
        self.gain_cell = nn.Parameter(torch.ones(hidden))
        self.bias_cell = nn.Parameter(torch.zeros(hidden))

    def forward(self, sequence: Tensor, state: CellState) -> tuple[Tensor, CellState]:
        """Unroll over ``sequence`` (T, N, I) from ``state``; returns outputs (T, N, H) and the last state."""
        products = functional.linear(sequence, self.weight_ih)
        normed = functional.layer_norm(products, products.shape[-1:], self.gain_ih, self.bias, EPSILON)
        others = (self.recurrent(), self.gain_hh, self.gain_cell, self.bias_cell, *state)
        unroll: Callable[..., tuple[Tensor, Tensor]] = _Unroll.apply
        with torch.autocast(sequence.device.type, enabled=False):
            outputs, cell = unroll(*(part.to(products.dtype) for part in (normed, *others)))
        return outputs, CellState(outputs[-1], cell)

    def step(self, inputs: Tensor, state: CellState, recurrent: Tensor | None = None) -> CellState:
        """One position: ``inputs`` (N, I) and the state before it give the state after it."""
        write, forget, candidate, read = self._gates(inputs, state, recurrent).chunk(4, dim=-1)
        cell = torch.sigmoid(forget) * state.cell + torch.sigmoid(write) * torch.tanh(candidate)
        normed = functional.layer_norm(cell, cell.shape[-1:], self.gain_cell, self.bias_cell, EPSILON)
        return CellState(torch.sigmoid(read) * torch.tanh(normed), cell)

    def gates(self, inputs: Tensor, state: CellState) -> dict[str, Tensor]:
        """``input``, ``forget`` and ``output`` at one position; a forget gate of 1 keeps the old cell."""
        write, forget, _, read = torch.sigmoid(self._gates(inputs, state, None)).chunk(4, dim=-1)
        return {"input": write, "forget": forget, "output": read}

    def joined(self) -> None:
        """None: each product is normalised by itself."""

    def _gates(self, inputs: Tensor, state: CellState, recurrent: Tensor | None) -> Tensor:
        """(N, 4H), before the nonlinearities."""
        weight, shape = self.weight_hh if recurrent is None else recurrent, self.bias.shape
        new = functional.layer_norm(inputs @ self.weight_ih.t(), shape, self.gain_ih, self.bias, EPSILON)
        return new + functional.layer_norm(state.hidden @ weight.t(), shape, self.gain_hh, None, EPSILON)


class _Unroll(torch.autograd.Function):
    """The loop over time, everything of one type; weight and gain gradients are one product over all positions."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, gain: Tensor, gain_cell: Tensor, bias: Tensor, *state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """``inputs`` (T, N, 4H) normalised, ``weight`` (4H, H), ``gain`` (4H), cell's gain and bias (H), state."""
        hidden, cell = state
        time, rows, width = inputs.shape[0], *hidden.shape
        gates, products = inputs.new_empty(2, *inputs.shape)
        hiddens, cells = inputs.new_empty(2, time + 1, rows, width)
        squashed = inputs.new_empty(time, rows, width)
        hiddens[0], cells[0] = hidden, cell
        statistics, cell_statistics = [], []
        for t in range(time):
            torch.mm(hiddens[t], weight.t(), out=products[t])
            normed, *moments = torch.native_layer_norm(products[t], gain.shape, gain, None, EPSILON)
            statistics.append(moments)
            torch.add(inputs[t], normed, out=gates[t])
            write, forget, candidate, read = gates[t].chunk(4, dim=-1)
            gates[t, :, : 2 * width].sigmoid_()
            torch.mul(forget, cells[t], out=cells[t + 1]).addcmul_(write, candidate.tanh_())
            normed, *moments = torch.native_layer_norm(cells[t + 1], bias.shape, gain_cell, bias, EPSILON)
            cell_statistics.append(moments)
            torch.mul(read.sigmoid_(), torch.tanh(normed, out=squashed[t]), out=hiddens[t + 1])
        moments = [
            torch.stack(parts) for parts in (*zip(*statistics, strict=True), *zip(*cell_statistics, strict=True))
        ]
        ctx.save_for_backward(weight, gain, gain_cell, bias, gates, products, hiddens, cells, squashed, *moments)
        return hiddens[1:], cells[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outputs_gradient: Tensor, cell: Tensor) -> tuple[Tensor | None, ...]:
        """``cell`` (N, H) and ``hidden`` (N, H) are gradients here, carried from each position to the one before."""
        weight, gain, gain_cell, bias, gates, products, hiddens, cells, squashed, *moments = ctx.saved_tensors
        gradient, products_gradient = gates.new_empty(2, *gates.shape)
        normed_gradient = torch.empty_like(squashed)
        hidden = torch.zeros_like(cell)
        norm_backward = torch.ops.aten.native_layer_norm_backward
        for t in reversed(range(len(gates))):
            mean, deviation, cell_mean, cell_deviation = (moment[t] for moment in moments)
            hidden = hidden + outputs_gradient[t]
            _, forget_gate, _, read_gate = gates[t].chunk(4, dim=-1)
            read = through_sigmoid(hidden * squashed[t], read_gate)
            normed_gradient[t] = through_tanh(hidden * read_gate, squashed[t])
            into = (normed_gradient[t], cells[t + 1], bias.shape, cell_mean, cell_deviation, gain_cell, bias)
            cell = cell + norm_backward(*into, (True, False, False))[0]
            torch.cat([*through_cell(cell, gates[t], cells[t]), read], dim=-1, out=gradient[t])
            cell = cell * forget_gate
            into = (gradient[t], products[t], gain.shape, mean, deviation, gain, None)
            products_gradient[t] = norm_backward(*into, (True, False, False))[0]
            hidden = products_gradient[t] @ weight
        mean, deviation, cell_mean, cell_deviation = moments
        into = (gradient, products, gain.shape, mean, deviation, gain, None)
        _, gains, _ = norm_backward(*into, (False, True, False))
        into = (normed_gradient, cells[1:], bias.shape, cell_mean, cell_deviation, gain_cell, bias)
        _, cell_gains, cell_biases = norm_backward(*into, (False, True, True))
        weights = products_gradient.flatten(0, 1).t() @ hiddens[:-1].flatten(0, 1)
        return gradient, weights, gains, cell_gains, cell_biases, hidden, cell
