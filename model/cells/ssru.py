"""The simpler simple recurrent unit: no recurrent matrix, so all products of a sequence are one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from model.cells.layer import CellState, RecurrentLayer


class SSRULayer(RecurrentLayer):
    """SSRU (Kim et al. 2019, "From Research to Production and Back: Ludicrously Fast Neural Machine Translation")::

        f_t = sigmoid(W_f x_t + b_f)
        c_t = f_t * c_{t-1} + (1 - f_t) * W x_t
        h_t = relu(c_t)

    It is the SRU of Lei et al. 2018 without its output gate. ``weight_ih`` (2H, I) holds W_f above W.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__(inputs, hidden)
        self.weight_ih = nn.Parameter(torch.empty(2 * hidden, inputs))
        self.bias = nn.Parameter(torch.empty(hidden))
        self.reset()

    def reset(self) -> None:
        """Glorot-uniform weights (Glorot & Bengio 2010); forget bias 1, to begin by remembering.

        A gate's bias sets how long a cell remembers: ``1 / (1 - sigmoid(b))`` positions (Tallec & Ollivier 2018,
        section 2).
        """
        nn.init.xavier_uniform_(self.weight_ih)
        nn.init.ones_(self.bias)

    @staticmethod
    def begin(*parts: Tensor) -> CellState:
        """The state with a given ``cell`` (N, H)."""
        (cell,) = parts
        return CellState(torch.relu(cell), cell)

    def forward(self, sequence: Tensor, state: CellState) -> tuple[Tensor, CellState]:
        """Unroll over ``sequence`` (T, N, I) from ``state``; returns outputs (T, N, H) and the last state."""
        forget, value = self._parts(sequence)
        scan: Callable[..., Tensor] = _Scan.apply
        with torch.autocast(sequence.device.type, enabled=False):
            cells = scan(forget, value, state.cell.to(value.dtype))
        outputs = torch.relu(cells)
        return outputs, CellState(outputs[-1], cells[-1])

    def step(self, inputs: Tensor, state: CellState, recurrent: Tensor | None = None) -> CellState:
        """One position: ``inputs`` (N, I) and the state before it give the state after it."""
        return self.advance(self._products(inputs), state)

    def joined(self) -> tuple[Tensor, Tensor]:
        """``weight_ih`` (2H, I) and a bias (2H): no hidden state comes back."""
        return self.weight_ih, functional.pad(self.bias, (0, self.hidden))

    def advance(self, products: Tensor, state: CellState) -> CellState:
        """``h_t`` and ``c_t`` of the products (N, 2H)."""
        forget, value = products.chunk(2, dim=-1)
        return self.begin(torch.lerp(value, state.cell.to(value.dtype), torch.sigmoid(forget)))

    def gates(self, inputs: Tensor, state: CellState) -> dict[str, Tensor]:
        """``forget`` at one position; 1 keeps the old cell and lets nothing in."""
        forget, _ = self._parts(inputs)
        return {"forget": forget}

    def _parts(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Forget gate and new values, (..., H) each, of inputs (..., I)."""
        forget, value = self._products(inputs).chunk(2, dim=-1)
        return torch.sigmoid(forget), value

    def _products(self, inputs: Tensor) -> Tensor:
        """``W_f x + b_f`` beside ``W x``, (..., 2H)."""
        weight, bias = self.joined()
        return functional.linear(inputs, weight, bias)


class _Scan(torch.autograd.Function):
    """``c_t = f_t * c_{t-1} + (1 - f_t) * v_t`` over time: one kernel a position, forwards and back."""

    @staticmethod
    def forward(ctx: Any, forget: Tensor, value: Tensor, start: Tensor) -> Tensor:
        """``forget`` and ``value`` (T, N, H) and ``start`` (N, H), of one type, give the cells (T, N, H)."""
        cells = torch.empty_like(forget)
        last = start
        for t in range(len(forget)):
            last = torch.lerp(value[t], last, forget[t], out=cells[t])
        ctx.save_for_backward(forget, value, start, cells)
        return cells

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        forget, value, start, cells = ctx.saved_tensors
        total = torch.empty_like(cells)  # of each cell, through all that follow it
        total[-1] = gradient[-1]
        for t in reversed(range(len(cells) - 1)):
            torch.addcmul(gradient[t], total[t + 1], forget[t + 1], out=total[t])
        before = torch.cat([start.unsqueeze(0), cells[:-1]])
        return total * (before - value), total * (1 - forget), total[0] * forget[0]
