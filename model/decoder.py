"""The decoder: recurrent layers around one attention, unrolled over a whole target or stepped one piece at a time.

The bottom layer's outputs query the attention; the context feeds every layer above and the output layer, as in GNMT
and RNMT+ (Wu et al. 2016; Chen et al. 2018, section 3). No layer's input depends on another layer's past, so in
training each layer is one fused call over all positions. Input feeding (Luong et al. 2015, section 3.3) breaks that:
with it the same layers are stepped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.attention import build_attention
from model.cells import CellState, RecurrentLayer, build_cell
from model.config import ModelConfig
from model.encoder import LockedDropout
from model.tree import join_rows, map_tensors, select_rows


class Memory(NamedTuple):
    """What attention looks at, computed once per source sentence: one slot (B) a sentence."""

    keys: Tensor  # (B, S, A)
    values: Tensor  # (B, S, H)
    mask: Tensor  # (B, S) bool, true at real positions

    def select(self, slots: Tensor) -> Memory:
        """Reorder, repeat or drop sentences: ``slots`` (B') int64."""
        return select_rows(self, slots)

    def resize(self, positions: int) -> Memory:
        """Pad or cut to ``positions`` source positions; what is cut must be padding."""
        extra = positions - self.mask.shape[1]
        if not extra:
            return self
        # Padding is given from the last dimension backwards; positions are the second dimension of every part.
        return map_tensors(lambda part: functional.pad(part, (0, 0) * (part.dim() - 2) + (0, extra)), self)

    def join(self, other: Memory) -> Memory:
        """The sentences of both, which must have equally many source positions."""
        return join_rows(self, other)


class State(NamedTuple):
    """The decoder between two steps, one row (N) a hypothesis; rows of a sentence stand together."""

    cells: tuple[CellState, ...]  # one a layer, (N, H) each
    feed: Tensor | None  # (N, E), the last attentional output, with input feeding only

    def select(self, rows: Tensor) -> State:
        """Reorder, repeat or drop hypotheses: ``rows`` (N') int64."""
        return select_rows(self, rows)

    def join(self, other: State) -> State:
        """The hypotheses of both."""
        return join_rows(self, other)


class Decoder(nn.Module):
    """Embedded target pieces to features (..., E), whose product with the output embeddings are the logits."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden = config.hidden
        self.residual, self.input_feeding = config.residual, config.input_feeding
        fed = config.embedding if config.input_feeding else 0
        widths = [config.embedding + fed] + [2 * hidden] * (config.decoder_layers - 1)
        self.layers = nn.ModuleList(
            build_cell(config.cell, width, hidden, config.recurrent_dropout) for width in widths
        )
        norms = (nn.LayerNorm(hidden) if config.layer_norm else nn.Identity() for _ in widths)
        self.norms = nn.ModuleList(norms)
        self.attention = build_attention(config.attention, hidden, config.heads)
        self.combine = nn.Linear(2 * hidden, config.embedding)
        self.dropout = LockedDropout(config.dropout)

    def forward(self, embedded: Tensor, state: State, memory: Memory) -> tuple[Tensor, Tensor]:
        """Teacher-forced pass over ``embedded`` (T, B, E): features (T, B, E) and attention weights (B, T, S)."""
        if self.input_feeding:
            return self._unroll(embedded, state, memory)
        output, _ = self.layers[0](embedded, state.cells[0])
        sequence = self.dropout(self.norms[0](output))  # (T, B, H)
        context, weights = self.attention(sequence.transpose(0, 1), memory.keys, memory.values, memory.mask)
        context = self.dropout(context.transpose(0, 1))  # (T, B, H)
        for layer, norm, cell in zip(self.layers[1:], self.norms[1:], state.cells[1:], strict=True):
            output, _ = layer(torch.cat([sequence, context], dim=-1), cell)
            sequence = self.dropout(norm(output + sequence if self.residual else output))
        return self.dropout(self._features(sequence, context)), weights

    def _unroll(self, embedded: Tensor, state: State, memory: Memory) -> tuple[Tensor, Tensor]:
        features, weights = [], []
        recurrent = [layer.recurrent() for layer in self._cells()]  # drawn once for all positions
        for piece in embedded:
            feature, state, weight = self.step(piece, state, memory, recurrent)
            features.append(feature)
            weights.append(weight)
        return self.dropout(torch.stack(features)), torch.stack(weights, dim=1)

    def step(
        self, embedded: Tensor, state: State, memory: Memory, recurrent: Sequence[Tensor | None] | None = None
    ) -> tuple[Tensor, State, Tensor]:
        """One position of every hypothesis: features (N, E), the next state and attention weights (N, S).

        ``embedded`` is (N, E) with N = B x K rows, K hypotheses for each of the B sentences of ``memory``;
        ``recurrent`` are the layers' recurrent weights where a pass has dropped some of them.
        """
        inputs = embedded if state.feed is None else torch.cat([embedded, state.feed], dim=-1)
        bottom, *above = self._cells()
        first, *others = recurrent or [None] * len(self.layers)
        cells = [bottom.step(inputs, state.cells[0], first)]
        sequence = self._drop(self.norms[0](cells[0].hidden))  # (N, H)
        query = sequence.view(memory.mask.shape[0], -1, sequence.shape[-1])  # (B, K, H)
        context, weights = self.attention(query, memory.keys, memory.values, memory.mask)
        context = self._drop(context.reshape(sequence.shape))  # (N, H)
        for layer, norm, cell, weight in zip(above, self.norms[1:], state.cells[1:], others, strict=True):
            cells.append(layer.step(torch.cat([sequence, context], dim=-1), cell, weight))
            output = cells[-1].hidden
            sequence = self._drop(norm(output + sequence if self.residual else output))
        features = self._features(sequence, context)
        feed = features if self.input_feeding else None
        return features, State(tuple(cells), feed), weights.reshape(-1, weights.shape[-1])

    def _cells(self) -> list[RecurrentLayer]:
        return [layer for layer in self.layers if isinstance(layer, RecurrentLayer)]

    def _drop(self, rows: Tensor) -> Tensor:
        """Dropout of (N, H) in an unrolled pass: with input feeding the mask is drawn anew at each position."""
        dropped: Tensor = self.dropout(rows.unsqueeze(0))
        return dropped.squeeze(0)

    def _features(self, sequence: Tensor, context: Tensor) -> Tensor:
        """Attentional output ``tanh(W [h; c])`` (Luong et al. 2015, equation 5)."""
        return torch.tanh(self.combine(torch.cat([sequence, context], dim=-1)))
