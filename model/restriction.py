"""The pieces that a running batch may write: those of a shortlist, the union over its sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from model.ensemble import Ensemble
from model.seq2seq import Allowed, Output
from model.shortlist import Shortlist

_SLACK = 0.75  # rows are gathered anew when less than this of them is still asked for


class Restriction:
    """B sentences that may use R of the target pieces together, and each of them some of those.

    Logits are computed for the R pieces alone; what a sentence itself may not use gets minus infinity, so that its
    translation does not depend on what the others may use.
    """

    def __init__(self, model: Ensemble, pieces: Tensor, barred: Tensor) -> None:
        """``pieces`` (R) int64, ascending, the reserved ids among them; ``barred`` (B, R) bool."""
        self.model, self.pieces, self.barred = model, pieces, barred

    @classmethod
    def of(
        cls, model: Ensemble, shortlist: Shortlist, sources: Sequence[Sequence[int]], prefixes: Sequence[Sequence[int]]
    ) -> Restriction:
        """For ``sources`` whose translations are forced to begin with ``prefixes``, both ids within the vocabulary."""
        allowed = shortlist.allowed(sources, prefixes, model.config.target_vocabulary)  # (B, V)
        pieces = allowed.any(dim=0).nonzero().squeeze(1)
        return cls(model, pieces, ~allowed[:, pieces])

    @cached_property
    def outputs(self) -> tuple[Output, ...]:
        """Each member's output for the R pieces, minus infinity where barred; copied from the model once."""
        return tuple(map(self._barring, self._rows))

    @cached_property
    def penalty(self) -> Tensor:
        """What is added to the logits (B, R): minus infinity where barred, else 0."""
        return torch.zeros(self.barred.shape, device=self.barred.device).masked_fill_(self.barred, -math.inf)

    @property
    def allowed(self) -> Allowed | None:
        """The same for several steps of a model alone; None for several models."""
        return Allowed(self.pieces, self._rows[0], self.penalty) if len(self._rows) == 1 else None

    def places(self, ids: Tensor) -> Tensor:
        """Where ``ids``, int64, stand among the R pieces; negative ones stay as they are."""
        return torch.where(ids < 0, ids, torch.searchsorted(self.pieces, ids.clamp(min=0)))

    def select(self, slots: Tensor) -> Restriction:
        """For the sentences ``slots`` (B') int64 alone; pieces that only others may use go as soon as they are many."""
        chosen = Restriction(self.model, self.pieces, self.barred[slots])
        used = ~chosen.barred.all(dim=0)
        if int(used.sum()) < _SLACK * len(used):
            return Restriction(self.model, self.pieces[used], chosen.barred[:, used])
        chosen._rows = self._rows
        return chosen

    def join(self, other: Restriction) -> Restriction:
        """For the sentences of both."""
        either = torch.zeros(self.model.config.target_vocabulary, dtype=torch.bool, device=self.pieces.device)
        either[self.pieces] = either[other.pieces] = True
        pieces = either.nonzero().squeeze(1)
        joined = Restriction(self.model, pieces, torch.cat([self._spread(pieces), other._spread(pieces)]))
        if len(pieces) == len(self.pieces):
            joined._rows = self._rows
        return joined

    @cached_property
    def _rows(self) -> tuple[Output, ...]:
        return self.model.rows(self.pieces)

    def _spread(self, pieces: Tensor) -> Tensor:
        """What is barred of ``pieces`` (R'), of which ours are a part: (B, R') bool."""
        barred = self.barred.new_ones(len(self.barred), len(pieces))
        barred[:, torch.searchsorted(pieces, self.pieces)] = self.barred
        return barred

    def _barring(self, output: Output) -> Output:
        penalty = self.penalty

        def barring(features: Tensor) -> Tensor:
            logits = output(features)  # (N, R)
            slots, count = penalty.shape
            # Added, not filled in: a mask that is spread over the rows is three times as slow.
            return logits.view(slots, -1, count).add_(penalty.to(logits.dtype).unsqueeze(1)).view(-1, count)

        return barring
