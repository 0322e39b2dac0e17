"""The encoded sources of a batch, in buffers that sentences join and leave without a copy of the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.ensemble import EnsembleMemory
from model.tree import map_tensors

_SPARE = 8  # one slot more for so many, when a buffer grows


class SlotMemory:
    """A slot a sentence; the slots in use come first. At most half of the buffer is unused."""

    def __init__(self, memory: EnsembleMemory) -> None:
        """Takes ``memory`` over, and writes into it when sentences move."""
        self._buffer, self._capacity, self.count = memory, memory.mask.shape[0], memory.mask.shape[0]
        self.view = memory  # (B, S, ...) of the slots in use

    @property
    def positions(self) -> int:
        """Source positions of a slot."""
        return self._buffer.mask.shape[1]

    def keep(self, slots: NDArray[np.int64]) -> None:
        """Keep ``slots`` (B') in this order; only what stands elsewhere than before is copied.

        A slot below B' that moves must not be wanted elsewhere, as where holes are filled from behind.
        """
        moved = np.flatnonzero(slots != np.arange(len(slots)))
        if len(moved):
            device = self._buffer.mask.device
            target, origin = torch.from_numpy(moved).to(device), torch.from_numpy(slots[moved]).to(device)
            map_tensors(lambda part: part.index_copy_(0, target, part.index_select(0, origin)), self._buffer)
        self._use(len(slots))
        if self.count * 2 < self._capacity:
            self._buffer, self._capacity = map_tensors(Tensor.clone, self.view), self.count
            self._use(self.count)

    def fit(self, others: Sequence[EnsembleMemory], positions: int) -> None:
        """Let the sentences of ``others`` join behind, and have as many source ``positions``; those cut are padding."""
        if positions != self.positions:
            self._buffer = self._buffer.resize(positions)
            self._use(self.count)
        needed = self.count + sum(other.mask.shape[0] for other in others)
        if needed > self._capacity:
            self._capacity = needed + needed // _SPARE
            self._buffer = map_tensors(self._grown, self._buffer)
        start = self.count
        for other in others:
            self._write(start, other.resize(positions))
            start += other.mask.shape[0]
        if others:
            self._use(needed)

    def _grown(self, part: Tensor) -> Tensor:
        grown = part.new_empty((self._capacity, *part.shape[1:]))
        grown[: self.count] = part[: self.count]
        return grown

    def _write(self, start: int, other: EnsembleMemory) -> None:
        map_tensors(lambda part, added: part[start : start + len(added)].copy_(added), self._buffer, other)

    def _use(self, count: int) -> None:
        self.count = count
        self.view = map_tensors(lambda part: part[:count], self._buffer)
