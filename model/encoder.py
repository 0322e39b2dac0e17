"""The encoder: stacked bidirectional LSTM layers over padded sequences."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.cells import CellState, LSTMLayer
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
    """Two forward layers, one fed with each sequence reversed within its own length: fused without packing."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.forward_layer = LSTMLayer(inputs, hidden // 2)
        self.backward_layer = LSTMLayer(inputs, hidden // 2)

    def forward(self, sequence: Tensor, reverse: Tensor) -> Tensor:
        """``sequence`` (T, N, I) with ``reverse`` (T, N) from :func:`reversal` to outputs (T, N, H)."""
        rows = sequence.shape[1]
        ahead, _ = self.forward_layer(sequence, self.forward_layer.start(rows))
        back, _ = self.backward_layer(_gather(sequence, reverse), self.backward_layer.start(rows))
        return torch.cat([ahead, _gather(back, reverse)], dim=-1)


def _gather(sequence: Tensor, index: Tensor) -> Tensor:
    return sequence.gather(0, index.unsqueeze(-1).expand_as(sequence))


class Encoder(nn.Module):
    """Embedded source (T, N, E) to outputs (T, N, H) and a start state for each decoder layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.residual = config.residual
        widths = [config.embedding] + [config.hidden] * (config.encoder_layers - 1)
        self.layers = nn.ModuleList(BidirectionalLayer(width, config.hidden) for width in widths)
        norms = (nn.LayerNorm(config.hidden) if config.layer_norm else nn.Identity() for _ in widths)
        self.norms = nn.ModuleList(norms)
        self.dropout = LockedDropout(config.dropout)

    def forward(self, embedded: Tensor, lengths: Tensor) -> Tensor:
        """``embedded`` (T, N, E), ``lengths`` (N); outputs (T, N, H), meaningless beyond each length."""
        reverse = reversal(lengths, embedded.shape[0])
        sequence = embedded
        for layer, norm in zip(self.layers, self.norms, strict=True):
            output = layer(sequence, reverse)
            if self.residual and sequence.shape == output.shape:
                output = output + sequence
            sequence = self.dropout(norm(output))
        return sequence


class Bridge(nn.Module):
    """Decoder start state: ``tanh(W mean + b)`` of the encoder's outputs, each layer with its own W and b.

    The mean over real positions sees both directions of every word (as Nematus does; Sennrich et al. 2017, 3.1).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layers = config.decoder_layers
        self.project = nn.Linear(config.hidden, config.decoder_layers * 2 * config.hidden)

    def forward(self, outputs: Tensor, mask: Tensor) -> tuple[CellState, ...]:
        """``outputs`` (B, S, H) and ``mask`` (B, S) to one state for each decoder layer."""
        weights = mask.to(outputs.dtype).unsqueeze(-1)
        mean = (outputs * weights).sum(dim=1) / weights.sum(dim=1)  # (B, H)
        parts = torch.tanh(self.project(mean)).chunk(2 * self.layers, dim=-1)
        return tuple(CellState(hidden, cell) for hidden, cell in zip(parts[::2], parts[1::2], strict=True))
