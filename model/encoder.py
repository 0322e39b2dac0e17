"""The encoder: stacked bidirectional layers over padded sequences, and what the decoder starts from."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.attention import MultiHeadAttention
from model.cells import CELLS, CellState, RecurrentLayer, build_cell
from model.config import ModelConfig


class LockedDropout(nn.Module):
    """Dropout with one mask over all time steps of a sequence (Gal & Ghahramani 2016)."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, sequence: Tensor) -> Tensor:
        """``sequence`` (T, N, H); the mask is (1, N, H)."""
        if not self.training or self.probability == 0:
            return sequence
        keep = 1 - self.probability
        mask = torch.empty(1, *sequence.shape[1:], device=sequence.device).bernoulli_(keep).div_(keep)
        return sequence * mask.to(sequence.dtype)


def reversal(lengths: Tensor, positions: int) -> Tensor:
    """Index (T, N) that reverses each sequence within its own length and leaves padding where it is."""
    time = torch.arange(positions, device=lengths.device).unsqueeze(1)  # (T, 1)
    return torch.where(time < lengths, lengths - 1 - time, time)


class BidirectionalLayer(nn.Module):
    """Two layers, one fed with each sequence reversed within its own length: fused without packing."""

    def __init__(self, forward_layer: RecurrentLayer, backward_layer: RecurrentLayer) -> None:
        super().__init__()
        self.forward_layer, self.backward_layer = forward_layer, backward_layer

    def forward(self, sequence: Tensor, reverse: Tensor) -> Tensor:
        """``sequence`` (T, N, I) with ``reverse`` (T, N) from :func:`reversal` to outputs (T, N, H)."""
        rows = sequence.shape[1]
        ahead, _ = self.forward_layer(sequence, self.forward_layer.start(rows))
        back, _ = self.backward_layer(_gather(sequence, reverse), self.backward_layer.start(rows))
        return torch.cat([ahead, _gather(back, reverse)], dim=-1)


def _gather(sequence: Tensor, index: Tensor) -> Tensor:
    return sequence.gather(0, index.unsqueeze(-1).expand_as(sequence))


class SelfAttention(nn.Module):
    """``x + attention(norm(x))`` over the recurrent outputs: every position sees every other in one step.

    The hybrid that stacks attention upon recurrence (Chen et al. 2018, section 6), with one layer, normalised before
    and without a feed-forward part; the attention is that of Vaswani et al. 2017, section 3.2.2.
    """

    def __init__(self, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.attention = MultiHeadAttention(hidden, heads)
        self.dropout = LockedDropout(dropout)

    def forward(self, sequence: Tensor, lengths: Tensor) -> Tensor:
        """``sequence`` (T, N, H) and ``lengths`` (N) to outputs (T, N, H), meaningless beyond each length."""
        rows = self.norm(sequence).transpose(0, 1)  # (N, T, H)
        mask = torch.arange(rows.shape[1], device=lengths.device) < lengths.unsqueeze(1)  # (N, T)
        mixed, _ = self.attention(rows, self.attention.project(rows), rows, mask)
        attended: Tensor = sequence + self.dropout(mixed.transpose(0, 1))
        return attended


class Encoder(nn.Module):
    """Embedded source (T, N, E) to outputs (T, N, H).

    With ``lexical_shortcut`` a linear map of its own embedding is added to each output, so that what a piece means by
    itself, rare ones above all, need not be learned through every gate: the source-side bridging of Kuang et al. 2018
    (section 4.1), with a sum for the concatenation, which the attention's linear maps make of it anyway.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.residual = config.residual
        widths = [config.embedding] + [config.hidden] * (config.encoder_layers - 1)
        self.layers = nn.ModuleList(self._layer(config, width) for width in widths)
        norms = (nn.LayerNorm(config.hidden) if config.layer_norm else nn.Identity() for _ in widths)
        self.norms = nn.ModuleList(norms)
        self.dropout = LockedDropout(config.dropout)
        over = SelfAttention(config.hidden, config.heads, config.dropout) if config.self_attention else None
        self.self_attention = over
        self.shortcut = nn.Linear(config.embedding, config.hidden, bias=False) if config.lexical_shortcut else None

    @staticmethod
    def _layer(config: ModelConfig, inputs: int) -> BidirectionalLayer:
        half = config.hidden // 2
        ahead, back = (build_cell(config.cell, inputs, half, config.recurrent_dropout) for _ in range(2))
        return BidirectionalLayer(ahead, back)

    def forward(self, embedded: Tensor, lengths: Tensor) -> Tensor:
        """``embedded`` (T, N, E), ``lengths`` (N); outputs (T, N, H), meaningless beyond each length."""
        reverse = reversal(lengths, embedded.shape[0])
        sequence = embedded
        for layer, norm in zip(self.layers, self.norms, strict=True):
            output = layer(sequence, reverse)
            if self.residual and sequence.shape == output.shape:
                output = output + sequence
            sequence = self.dropout(norm(output))
        if self.self_attention is not None:
            sequence = self.self_attention(sequence, lengths)
        return sequence if self.shortcut is None else sequence + self.shortcut(embedded)


class Bridge(nn.Module):
    """Decoder start state: ``tanh(W mean + b)`` of the encoder's outputs, W and b of its own for each layer's parts.

    The mean over real positions sees both directions of every word (as Nematus does; Sennrich et al. 2017, 3.1).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layers, self.cell = config.decoder_layers, CELLS[config.cell]
        self.project = nn.Linear(config.hidden, config.decoder_layers * self.cell.parts * config.hidden)

    def forward(self, outputs: Tensor, mask: Tensor) -> tuple[CellState, ...]:
        """``outputs`` (B, S, H) and ``mask`` (B, S) to one state for each decoder layer."""
        layers = torch.tanh(self.project(self.mean(outputs, mask))).chunk(self.layers, dim=-1)
        return tuple(self.cell.begin(*layer.chunk(self.cell.parts, dim=-1)) for layer in layers)

    def mean(self, outputs: Tensor, mask: Tensor) -> Tensor:
        """Means (B, H) of ``outputs`` over real positions."""
        weights = mask.to(outputs.dtype).unsqueeze(-1)
        return (outputs * weights).sum(dim=1) / weights.sum(dim=1)
