"""The LSTM in bfloat16 on a CPU, its pass through time and back written out.

oneDNN's own LSTM gains nothing from bfloat16; its matrix products do, most of all with AMX. So each position is one
product here, and between two products everything is float32: gates, cells, and what is carried back through time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.cells.gradients import through_cell, through_sigmoid, through_tanh


class UnrolledLSTM(torch.autograd.Function):
    """``apply(products, weight, hidden, cell)`` to outputs (T, N, H) and the last cell (N, H).

    ``products`` (T, N, 4H) of all inputs and ``weight`` (4H, H) are of one type, in which the products are; ``hidden``
    and ``cell`` (N, H) are float32, or float64 with the rest. Equations: :class:`model.cells.fused.LSTMLayer`.
    """

    @staticmethod
    def forward(ctx: Any, products: Tensor, weight: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs are of the products' type, the cell is as it was given."""
        time, (rows, width) = len(products), hidden.shape
        gates = cell.new_empty(time, rows, 4 * width)
        cells, squashed = cell.new_empty(time + 1, rows, width), cell.new_empty(time, rows, width)
        hiddens = products.new_empty(time + 1, rows, width)
        hiddens[0], cells[0] = hidden, cell
        for t in range(time):
            gates[t] = torch.addmm(products[t], hiddens[t], weight.t())
            write, forget, candidate, read = gates[t].chunk(4, dim=-1)
            gates[t, :, : 2 * width].sigmoid_()
            torch.mul(forget, cells[t], out=cells[t + 1]).addcmul_(write, candidate.tanh_())
            hiddens[t + 1] = read.sigmoid_() * torch.tanh(cells[t + 1], out=squashed[t])
        ctx.save_for_backward(weight, gates, hiddens, cells, squashed)
        return hiddens[1:], cells[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outputs_gradient: Tensor, cell: Tensor) -> tuple[Tensor, ...]:
        """``cell`` (N, H) and ``hidden`` (N, H) are gradients here, carried from each position to the one before."""
        weight, gates, hiddens, cells, squashed = ctx.saved_tensors
        gradient = hiddens.new_empty(gates.shape)
        hidden = torch.zeros_like(cell)
        for t in reversed(range(len(gates))):
            hidden = hidden + outputs_gradient[t]
            _, forget, _, read = gates[t].chunk(4, dim=-1)
            cell = cell + through_tanh(hidden * read, squashed[t])
            parts = through_cell(cell, gates[t], cells[t])
            gradient[t] = torch.cat([*parts, through_sigmoid(hidden * squashed[t], read)], dim=-1)
            cell = cell * forget
            hidden = (gradient[t] @ weight).to(cell.dtype)
        weights = gradient.flatten(0, 1).t() @ hiddens[:-1].flatten(0, 1)
        return gradient, weights, hidden, cell
