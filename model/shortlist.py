"""The vocabulary shortlist: which target pieces a sentence's translation may use, decided by its source pieces.

The output layer is the largest product of a decoder step, and nearly all of the vocabulary has nothing to do with the
sentence at hand. As in Jean et al. 2015 (section 3.2) a translation is chosen from the likely translations of the
source's pieces and from the pieces that are frequent anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from model.config import ModelConfig


class ShortlistError(ValueError):
    """A shortlist that is damaged, or for other vocabularies; the message says what would be right."""


class Shortlist(NamedTuple):
    """Target pieces by source piece: those of s are ``ids[offsets[s]:offsets[s + 1]]``, and ``always``."""

    offsets: Tensor  # (source vocabulary + 1) int32
    ids: Tensor  # (N) int32
    always: Tensor  # (M) int32, allowed whatever the source is; the reserved ids are among them

    def allowed(self, sources: Sequence[Sequence[int]], prefixes: Sequence[Sequence[int]], vocabulary: int) -> Tensor:
        """Which pieces of the target ``vocabulary`` each of B sentences may use: (B, vocabulary) bool.

        ``sources`` are source pieces within the vocabulary; ``prefixes`` are pieces that a translation is forced to
        begin with, and so may use.
        """
        device = self.ids.device
        allowed = torch.zeros(len(sources), vocabulary, dtype=torch.bool, device=device)
        allowed[:, self.always.long()] = True
        sentence, piece = _flat(sources, device)
        starts = self.offsets[piece].long()
        counts = self.offsets[piece + 1].long() - starts
        last = counts.cumsum(0)
        total = int(last[-1])
        place = torch.arange(len(piece), device=device).repeat_interleave(counts, output_size=total)  # in the source
        ids = self.ids[torch.arange(total, device=device) + (starts - last + counts)[place]].long()
        allowed[sentence[place], ids] = True
        allowed[_flat(prefixes, device)] = True
        return allowed

    def to(self, device: torch.device | str) -> Shortlist:
        """The same on ``device``."""
        return Shortlist(*(tensor.to(device) for tensor in self))

    def check(self, config: ModelConfig) -> None:
        """Raises ShortlistError unless this is a whole shortlist for the vocabularies of ``config``."""
        for name, tensor in self._asdict().items():
            if tensor.dtype != torch.int32 or tensor.dim() != 1:
                raise ShortlistError(
                    f"{name} is {tensor.dtype} with the shape {list(tensor.shape)}, not a list of int32"
                )
        if len(self.offsets) != config.source_vocabulary + 1:
            found, pieces = len(self.offsets), config.source_vocabulary
            raise ShortlistError(f"offsets has {found} entries; for {pieces} source pieces it must have one more")
        falling = bool((self.offsets.diff() < 0).any())
        if falling or int(self.offsets[0]) != 0 or int(self.offsets[-1]) != len(self.ids):
            raise ShortlistError(f"offsets must rise from 0 to the number of ids, {len(self.ids)}")
        for name, ids in (("ids", self.ids), ("always", self.always)):
            if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < config.target_vocabulary:
                raise ShortlistError(
                    f"{name} holds a piece outside the target vocabulary of {config.target_vocabulary}"
                )
        lacking = {config.pad, config.unk, config.bos, config.eos} - set(self.always.tolist())
        if lacking:
            raise ShortlistError(f"always lacks the reserved ids {sorted(lacking)}")


def _flat(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """The members of ``rows`` one after the other, and before them the number of each one's row, both (N) int64."""
    lengths = torch.tensor([len(row) for row in rows], device=device)
    numbers = torch.arange(len(rows), device=device).repeat_interleave(lengths)
    return numbers, torch.tensor(list(chain.from_iterable(rows)), dtype=torch.int64, device=device)
