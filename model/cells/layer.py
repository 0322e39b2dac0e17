"""What every recurrent layer offers, whatever its cell: unrolled over a sequence, or stepped one position at a time."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class CellState(NamedTuple):
    """State of one layer after a position: ``hidden`` (N, H), which is also its output there, and ``cell`` (N, H).

    Where a cell keeps nothing but its output, ``cell`` is (N, 0): states of all kinds are reordered and joined alike.
    """

    hidden: Tensor
    cell: Tensor


class RecurrentLayer(nn.Module):
    """One unidirectional layer over padded, time-major sequences.

    Padded, never packed: a packed sequence leaves the fused kernels of oneDNN and cuDNN. Padding stands at the end,
    so no real position ever sees it.
    """

    parts: ClassVar[int] = 1  # vectors of width H that start a layer and pass between positions

    weight_ih: nn.Parameter

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.inputs, self.hidden = inputs, hidden

    @staticmethod
    def begin(*parts: Tensor) -> CellState:
        """The state that ``parts`` tensors (N, H) make: what the bridge starts a decoder layer with."""
        (hidden,) = parts
        return CellState(hidden, hidden[:, :0])

    def start(self, rows: int) -> CellState:
        """Zero state for ``rows`` sequences."""
        zeros = self.weight_ih.new_zeros(rows, self.hidden)
        return self.begin(*[zeros] * self.parts)

    def recurrent(self) -> Tensor | None:
        """Recurrent weights for one pass over a sequence, with dropout in training; None if the cell has none."""
        return None

    def forward(self, sequence: Tensor, state: CellState) -> tuple[Tensor, CellState]:
        """Unroll over ``sequence`` (T, N, I) from ``state``; returns outputs (T, N, H) and the last state."""
        raise NotImplementedError

    def step(self, inputs: Tensor, state: CellState, recurrent: Tensor | None = None) -> CellState:
        """One position: ``inputs`` (N, I) and the state before it give the state after it.

        ``recurrent`` is what :meth:`recurrent` gave for this pass; without it no weight is dropped.
        """
        raise NotImplementedError

    def gates(self, inputs: Tensor, state: CellState) -> dict[str, Tensor]:
        """Activations, between 0 and 1, of the gates at one position, (N, H) each, by the field's names."""
        raise NotImplementedError

    def joined(self) -> tuple[Tensor, Tensor] | None:
        """The one matrix (G, I + H), or (G, I), and bias (G) whose product with [x; h], or x, a step is made of.

        None where a step is more than one product: such a kind is stepped as it is.
        """
        return None

    def advance(self, products: Tensor, state: CellState) -> CellState:
        """What a step does after its product (N, G), which it may overwrite only when no gradient is wanted."""
        raise NotImplementedError


class MatrixLayer(RecurrentLayer):
    """A layer whose hidden state comes back through a matrix: weights for ``blocks`` gates and candidates.

    Recurrent dropout is DropConnect on that matrix with one mask for all positions (Merity et al. 2018, section 2).
    The weights are dropped before the sequence is unrolled, so the fused kernels serve as they are.
    """

    blocks: ClassVar[int]  # of H rows in each weight matrix

    def __init__(self, inputs: int, hidden: int, recurrent_dropout: float = 0.0) -> None:
        super().__init__(inputs, hidden)
        self.recurrent_dropout = recurrent_dropout
        self.weight_ih = nn.Parameter(torch.empty(self.blocks * hidden, inputs))
        self.weight_hh = nn.Parameter(torch.empty(self.blocks * hidden, hidden))
        self.bias = nn.Parameter(torch.empty(self.blocks * hidden))
        self.reset()

    def reset(self) -> None:
        """Glorot-uniform input weights (Glorot & Bengio 2010), orthogonal recurrent ones (Saxe et al. 2014), bias 0."""
        nn.init.xavier_uniform_(self.weight_ih)
        for block in self.weight_hh.data.chunk(self.blocks):
            nn.init.orthogonal_(block)
        nn.init.zeros_(self.bias)

    def recurrent(self) -> Tensor:
        """``weight_hh``, or in training what one draw of the mask leaves of it, scaled up to the same mean."""
        if not self.training or not self.recurrent_dropout:
            return self.weight_hh
        return functional.dropout(self.weight_hh, self.recurrent_dropout)

    def joined(self) -> tuple[Tensor, Tensor] | None:
        """``[W_ih W_hh]`` (blocks H, I + H) and the bias, unless the two products must be kept apart."""
        return torch.cat([self.weight_ih, self.weight_hh], dim=1), self.bias

    def _products(self, inputs: Tensor, state: CellState, recurrent: Tensor | None) -> Tensor:
        """``W_ih x + W_hh h + b``, (N, blocks H), at one position."""
        weight = self.weight_hh if recurrent is None else recurrent
        return torch.addmm(self.bias, inputs, self.weight_ih.t()) + state.hidden @ weight.t()


class LSTMKind(MatrixLayer):
    """A matrix layer with a cell beside its hidden state, and blocks in the order of torch: i, f, g, o."""

    parts, blocks = 2, 4

    def reset(self) -> None:
        """As every matrix layer; forget bias 1 (Jozefowicz et al. 2015)."""
        super().reset()
        nn.init.ones_(self.bias.data[self.hidden : 2 * self.hidden])

    @staticmethod
    def begin(*parts: Tensor) -> CellState:
        """``hidden`` and ``cell``, (N, H) each."""
        hidden, cell = parts
        return CellState(hidden, cell)
