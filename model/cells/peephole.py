"""The LSTM whose gates see the cell. No library has it fused, so its pass through time and back is written out here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from model.cells.gradients import through_cell, through_sigmoid, through_tanh
from model.cells.layer import CellState, LSTMKind


class PeepholeLSTMLayer(LSTMKind):
    """LSTM with peepholes (Gers & Schmidhuber 2000, section 2) in the form of Graves 2013, equations 7 to 11::

        i, f, g, o = split(W_ih x_t + W_hh h_{t-1} + b)
        c_t = sigmoid(f + p_f * c_{t-1}) * c_{t-1} + sigmoid(i + p_i * c_{t-1}) * tanh(g)
        h_t = sigmoid(o + p_o * c_t) * tanh(c_t)

    Input and forget gate see the old cell, the output gate the new one, each unit its own. The gradient is complete,
    where the first paper cut it off at the peepholes.
    """

    def __init__(self, inputs: int, hidden: int, recurrent_dropout: float = 0.0) -> None:
        super().__init__(inputs, hidden, recurrent_dropout)
        self.peepholes = nn.Parameter(torch.zeros(3, hidden))  # of i, f and o; at 0 it begins as a plain LSTM

    def forward(self, sequence: Tensor, state: CellState) -> tuple[Tensor, CellState]:
        """Unroll over ``sequence`` (T, N, I) from ``state``; returns outputs (T, N, H) and the last state."""
        products = functional.linear(sequence, self.weight_ih, self.bias)
        others = (part.to(products.dtype) for part in (self.recurrent(), self.peepholes, *state))
        unroll: Callable[..., tuple[Tensor, Tensor]] = _Unroll.apply
        with torch.autocast(sequence.device.type, enabled=False):
            outputs, cell = unroll(products, *others)
        return outputs, CellState(outputs[-1], cell)

    def step(self, inputs: Tensor, state: CellState, recurrent: Tensor | None = None) -> CellState:
        """One position: ``inputs`` (N, I) and the state before it give the state after it."""
        return self.advance(self._products(inputs, state, recurrent), state)

    def advance(self, products: Tensor, state: CellState) -> CellState:
        """``h_t`` and ``c_t`` of the products (N, 4H), before the peepholes."""
        _, cell, read = self._activations(products, state)
        return CellState(read * torch.tanh(cell), cell)

    def gates(self, inputs: Tensor, state: CellState) -> dict[str, Tensor]:
        """``input``, ``forget`` and ``output`` at one position; a forget gate of 1 keeps the old cell."""
        (write, forget), _, read = self._activations(self._products(inputs, state, None), state)
        return {"input": write, "forget": forget, "output": read}

    def _activations(self, products: Tensor, state: CellState) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
        """Input and forget gate, the new cell, and the output gate that sees it."""
        write, forget, candidate, read = products.chunk(4, dim=-1)
        write = torch.sigmoid(write + self.peepholes[0] * state.cell)
        forget = torch.sigmoid(forget + self.peepholes[1] * state.cell)
        cell = forget * state.cell + write * torch.tanh(candidate)
        return (write, forget), cell, torch.sigmoid(read + self.peepholes[2] * cell)


class _Unroll(torch.autograd.Function):
    """The loop over time, everything of one type; weight gradients are one product over all positions."""

    @staticmethod
    def forward(
        ctx: Any, products: Tensor, weight: Tensor, peepholes: Tensor, hidden: Tensor, cell: Tensor
    ) -> tuple[Tensor, Tensor]:
        """``products`` (T, N, 4H), ``weight`` (4H, H), ``peepholes`` (3, H), the state (N, H) twice."""
        time, rows, width = products.shape[0], *hidden.shape
        gates = torch.empty_like(products)
        hiddens, cells = products.new_empty(2, time + 1, rows, width)
        squashed = products.new_empty(time, rows, width)
        hiddens[0], cells[0] = hidden, cell
        for t in range(time):
            torch.addmm(products[t], hiddens[t], weight.t(), out=gates[t])
            write, forget, candidate, read = gates[t].chunk(4, dim=-1)
            gates[t].view(rows, 4, width)[:, :2].addcmul_(cells[t].unsqueeze(1), peepholes[:2]).sigmoid_()
            torch.mul(forget, cells[t], out=cells[t + 1]).addcmul_(write, candidate.tanh_())
            read.addcmul_(cells[t + 1], peepholes[2]).sigmoid_()
            torch.mul(read, torch.tanh(cells[t + 1], out=squashed[t]), out=hiddens[t + 1])
        ctx.save_for_backward(weight, peepholes, gates, hiddens, cells, squashed)
        return hiddens[1:], cells[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outputs_gradient: Tensor, cell: Tensor) -> tuple[Tensor | None, ...]:
        """``cell`` (N, H) and ``hidden`` (N, H) are gradients here, carried from each position to the one before."""
        weight, peepholes, gates, hiddens, cells, squashed = ctx.saved_tensors
        gradient = torch.empty_like(gates)
        hidden = torch.zeros_like(cell)
        for t in reversed(range(len(gates))):
            hidden = hidden + outputs_gradient[t]
            read = gates[t].chunk(4, dim=-1)[3]
            read_gradient = through_sigmoid(hidden * squashed[t], read)
            cell = (cell + through_tanh(hidden * read, squashed[t])).addcmul_(read_gradient, peepholes[2])
            write, forget, candidate = through_cell(cell, gates[t], cells[t])
            torch.cat([write, forget, candidate, read_gradient], dim=-1, out=gradient[t])
            cell = (cell * gates[t].chunk(4, dim=-1)[1]).addcmul_(write, peepholes[0]).addcmul_(forget, peepholes[1])
            hidden = gradient[t] @ weight
        write, forget, _, read = gradient.chunk(4, dim=-1)
        peephole = [(write * cells[:-1]).sum((0, 1)), (forget * cells[:-1]).sum((0, 1)), (read * cells[1:]).sum((0, 1))]
        weights = gradient.flatten(0, 1).t() @ hiddens[:-1].flatten(0, 1)
        return gradient, weights, torch.stack(peephole), hidden, cell
