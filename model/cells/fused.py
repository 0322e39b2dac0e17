"""The cells that oneDNN and cuDNN have: a whole sequence is one call of torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.cells.layer import CellState, LSTMKind, MatrixLayer
from model.cells.unrolled import UnrolledLSTM
from model.native import Operators, operators

BLOCK = 8  # rows: oneDNN cuts a product's rows into equal blocks; 61 or 227 have no good divisor


class RNNLayer(MatrixLayer):
    """The simple recurrent network (Elman 1990): ``h_t = tanh(W_ih x_t + W_hh h_{t-1} + b)``.

    Orthogonal recurrent weights let a signal pass through many steps before it fades (Henaff et al. 2016).
    """

    blocks = 1

    def forward(self, sequence: Tensor, state: CellState) -> tuple[Tensor, CellState]:
        """Unroll over ``sequence`` (T, N, I) from ``state``; returns outputs (T, N, H) and the last state."""
        weights = [self.weight_ih, self.recurrent(), self.bias, torch.zeros_like(self.bias)]
        sequence, hidden, *weights = _cast(sequence, state.hidden.unsqueeze(0), *weights)
        output, hidden = torch.rnn_tanh(sequence, hidden, weights, True, 1, 0.0, self.training, False, False)
        return output, self.begin(hidden.squeeze(0))

    def step(self, inputs: Tensor, state: CellState, recurrent: Tensor | None = None) -> CellState:
        """One position: ``inputs`` (N, I) and the state before it give the state after it."""
        return self.advance(self._products(inputs, state, recurrent), state)

    def advance(self, products: Tensor, state: CellState) -> CellState:
        """``h_t`` of the products (N, H)."""
        return self.begin(torch.tanh(products))

    def gates(self, inputs: Tensor, state: CellState) -> dict[str, Tensor]:
        """It has none."""
        return {}


class GRULayer(MatrixLayer):
    """The gated recurrent unit (Cho et al. 2014) in the variant of cuDNN and torch, blocks in their order::

        r = sigmoid(W_r x_t + U_r h_{t-1} + b_r)
        z = sigmoid(W_z x_t + U_z h_{t-1} + b_z)
        n = tanh(W_n x_t + b_n + r * (U_n h_{t-1} + b_u))
        h_t = (1 - z) * n + z * h_{t-1}

    It resets the product with ``U_n`` (Chung et al. 2014 reset ``h_{t-1}`` itself), which makes one product of three.
    """

    blocks = 3

    def __init__(self, inputs: int, hidden: int, recurrent_dropout: float = 0.0) -> None:
        super().__init__(inputs, hidden, recurrent_dropout)
        self.candidate_bias = nn.Parameter(torch.zeros(hidden))  # b_u, inside the reset

    def reset(self) -> None:
        """As every matrix layer; update bias 1, to begin by remembering (Tallec & Ollivier 2018, section 2)."""
        super().reset()
        nn.init.ones_(self.bias.data[self.hidden : 2 * self.hidden])

    def forward(self, sequence: Tensor, state: CellState) -> tuple[Tensor, CellState]:
        """Unroll over ``sequence`` (T, N, I) from ``state``; returns outputs (T, N, H) and the last state."""
        weights = [self.weight_ih, self.recurrent(), self.bias, self._recurrent_bias()]
        sequence, hidden, *weights = _cast(sequence, state.hidden.unsqueeze(0), *weights)
        output, hidden = torch.gru(sequence, hidden, weights, True, 1, 0.0, self.training, False, False)
        return output, self.begin(hidden.squeeze(0))

    def step(self, inputs: Tensor, state: CellState, recurrent: Tensor | None = None) -> CellState:
        """One position: ``inputs`` (N, I) and the state before it give the state after it."""
        reset, update, candidate, remembered = self._parts(inputs, state, recurrent)
        candidate = torch.tanh(candidate + reset * remembered)
        return self.begin(torch.lerp(candidate, state.hidden, update))

    def gates(self, inputs: Tensor, state: CellState) -> dict[str, Tensor]:
        """``reset`` and ``update`` at one position; an update of 1 keeps the old state."""
        reset, update, _, _ = self._parts(inputs, state, None)
        return {"reset": reset, "update": update}

    def joined(self) -> None:
        """None: the reset stands between the candidate's two products."""

    def _parts(self, inputs: Tensor, state: CellState, recurrent: Tensor | None) -> tuple[Tensor, ...]:
        """Both gates, and the two terms of the candidate, before the reset joins them."""
        weight = self.weight_hh if recurrent is None else recurrent
        reset, update, candidate = torch.addmm(self.bias, inputs, self.weight_ih.t()).chunk(3, dim=-1)
        past = torch.addmm(self._recurrent_bias(), state.hidden, weight.t())
        reset_past, update_past, remembered = past.chunk(3, dim=-1)
        return torch.sigmoid(reset + reset_past), torch.sigmoid(update + update_past), candidate, remembered

    def _recurrent_bias(self) -> Tensor:
        return functional.pad(self.candidate_bias, (2 * self.hidden, 0))


class LSTMLayer(LSTMKind):
    """LSTM with a forget gate (Hochreiter & Schmidhuber 1997; Gers et al. 2000)::

        i, f, g, o = split(W_ih x_t + W_hh h_{t-1} + b)
        c_t = sigmoid(f) * c_{t-1} + sigmoid(i) * tanh(g)
        h_t = sigmoid(o) * tanh(c_t)

    As torch and cuDNN have it, but for their second bias, which adds nothing to the first.
    """

    def forward(self, sequence: Tensor, state: CellState) -> tuple[Tensor, CellState]:
        """Unroll over ``sequence`` (T, N, I) from ``state``; returns outputs (T, N, H) and the last state."""
        rows = sequence.shape[1]
        native = operators(sequence.device)
        if native is not None and torch.is_grad_enabled() and _autocast_type(sequence) == torch.bfloat16:
            return self._unrolled(native, sequence, state)
        weights = [self.weight_ih, self.recurrent(), self.bias, torch.zeros_like(self.bias)]
        sequence, hidden, cell, *weights = _cast(sequence, *(part.unsqueeze(0) for part in state), *weights)
        sequence, hidden, cell = _whole_blocks(sequence, hidden, cell)
        output, hidden, cell = torch.lstm(sequence, [hidden, cell], weights, True, 1, 0.0, self.training, False, False)
        return output[:, :rows], CellState(hidden[0, :rows], cell[0, :rows])

    def step(self, inputs: Tensor, state: CellState, recurrent: Tensor | None = None) -> CellState:
        """One position: ``inputs`` (N, I) and the state before it give the state after it."""
        return self.advance(self._products(inputs, state, recurrent), state)

    def _unrolled(self, native: Operators, sequence: Tensor, state: CellState) -> tuple[Tensor, CellState]:
        sequence, hidden, *weights = (
            part.to(torch.bfloat16).contiguous()
            for part in (sequence, state.hidden, self.weight_ih, self.recurrent(), self.bias)
        )
        cell = state.cell.float().contiguous()
        outputs, cell = UnrolledLSTM.apply(native, sequence, *weights, hidden, cell)  # type: ignore[no-untyped-call]
        return outputs, CellState(outputs[-1], cell)

    def advance(self, products: Tensor, state: CellState) -> CellState:
        """``h_t`` and ``c_t`` of the products (N, 4H)."""
        write, forget, candidate, read = products.chunk(4, dim=-1)
        cell = torch.addcmul(torch.sigmoid(forget) * state.cell, torch.sigmoid(write), torch.tanh(candidate))
        return CellState(torch.sigmoid(read) * torch.tanh(cell), cell)

    def gates(self, inputs: Tensor, state: CellState) -> dict[str, Tensor]:
        """``input``, ``forget`` and ``output`` at one position; a forget gate of 1 keeps the old cell."""
        write, forget, _, read = torch.sigmoid(self._products(inputs, state, None)).chunk(4, dim=-1)
        return {"input": write, "forget": forget, "output": read}


def _whole_blocks(*parts: Tensor) -> list[Tensor]:
    """``parts`` (T, N, size), in bfloat16 on a CPU with rows of zeros up to a number that its products are fast for."""
    missing = -parts[0].shape[1] % BLOCK
    if parts[0].device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        missing = 0
    return [functional.pad(part, (0, 0, 0, missing)) if missing else part for part in parts]


def _cast(sequence: Tensor, *others: Tensor) -> list[Tensor]:
    """What autocast would do if it reached into lists: the fused calls want their tensors in one type."""
    kind = _autocast_type(sequence)
    return [part if kind is None else part.to(kind) for part in (sequence, *others)]


def _autocast_type(tensor: Tensor) -> torch.dtype | None:
    """The type of autocast where ``tensor`` lies; None without autocast."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
