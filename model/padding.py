"""Lists of ids as padded tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from model.config import ModelConfig


def pad_sources(sources: Sequence[Sequence[int]], config: ModelConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """Sources as a model reads them: ids (B, S) int64 ending in end-of-sentence, padded, and lengths (B) int64."""
    return pad_ids([[*source, config.eos] for source in sources], config, device)


def pad_ids(rows: Sequence[Sequence[int]], config: ModelConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """Padded ids (B, L) int64 and their lengths (B) int64."""
    longest = max(map(len, rows))
    padded = [[*row] + [config.pad] * (longest - len(row)) for row in rows]
    return torch.tensor(padded, device=device), torch.tensor([len(row) for row in rows], device=device)
