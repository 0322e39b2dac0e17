"""The recurrent cell: one LSTM layer, unrolled over a sequence in one fused call or stepped one position at a time.

LSTM after Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000, gates in the order of torch
(input, forget, candidate, output)::

    i, f, g, o = split(W_ih x_t + W_hh h_{t-1} + b)
    c_t = sigmoid(f) * c_{t-1} + sigmoid(i) * tanh(g)
    h_t = sigmoid(o) * tanh(c_t)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class CellState(NamedTuple):
    """State of one layer: ``hidden`` and ``cell``, each (N, H)."""

    hidden: Tensor
    cell: Tensor


class LSTMLayer(nn.Module):
    """One unidirectional LSTM layer over padded, time-major sequences.

    Padded, never packed: a packed sequence leaves the fused kernels of oneDNN and cuDNN. Padding stands at the end,
    so no real position ever sees it.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.inputs, self.hidden = inputs, hidden
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden, inputs))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden, hidden))
        self.bias = nn.Parameter(torch.empty(4 * hidden))
        self.reset()

    def reset(self) -> None:
        """Glorot-uniform input weights, orthogonal recurrent ones, forget bias 1 (Jozefowicz et al. 2015)."""
        nn.init.xavier_uniform_(self.weight_ih)
        for gate in self.weight_hh.data.chunk(4):
            nn.init.orthogonal_(gate)
        nn.init.zeros_(self.bias)
        with torch.no_grad():
            self.bias[self.hidden : 2 * self.hidden] = 1.0

    def start(self, rows: int) -> CellState:
        """Zero state for ``rows`` sequences."""
        zeros = self.weight_hh.new_zeros(rows, self.hidden)
        return CellState(zeros, zeros)

    def forward(self, sequence: Tensor, state: CellState) -> tuple[Tensor, CellState]:
        """Unroll over ``sequence`` (T, N, I) from ``state``; returns outputs (T, N, H) and the last state."""
        # The fused kernels take two biases; the second is a constant zero so that the model keeps one.
        weights = [self.weight_ih, self.weight_hh, self.bias, torch.zeros_like(self.bias)]
        initial = [state.hidden.unsqueeze(0), state.cell.unsqueeze(0)]
        if torch.is_autocast_enabled(sequence.device.type):
            # torch.lstm is cast as a whole by autocast, its tensors in a list are not.
            dtype = torch.get_autocast_dtype(sequence.device.type)
            sequence = sequence.to(dtype)
            weights = [weight.to(dtype) for weight in weights]
            initial = [part.to(dtype) for part in initial]
        output, hidden, cell = torch.lstm(sequence, initial, weights, True, 1, 0.0, self.training, False, False)
        return output, CellState(hidden.squeeze(0), cell.squeeze(0))

    def step(self, inputs: Tensor, state: CellState) -> CellState:
        """One position: ``inputs`` (N, I) and the state before it give the state after it."""
        gates = torch.addmm(self.bias, inputs, self.weight_ih.t()) + state.hidden @ self.weight_hh.t()  # (N, 4H)
        input_gate, forget_gate, candidate, output_gate = gates.chunk(4, dim=-1)
        cell = torch.sigmoid(forget_gate) * state.cell + torch.sigmoid(input_gate) * torch.tanh(candidate)
        return CellState(torch.sigmoid(output_gate) * torch.tanh(cell), cell)
