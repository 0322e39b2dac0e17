"""Sentences that are stepped together: what the host knows of them, and their tensors on the device.

The host may drop sentences at any time; what follows for the tensors is done once, before the next step: the memory of
those that remain closes up, and one gather reorders the state, for the hypotheses' parents, the sentences that left and
those that joined at once. Where nothing moved, as in greedy search, it is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.ensemble import Ensemble, EnsembleMemory, EnsembleState
from model.restriction import Restriction
from model.search.beams import Beams
from model.search.extensions import Columns, Forced, best_extensions
from model.search.memory import SlotMemory
from model.search.sentence import Finished
from model.search.slots import Booleans, Integers
from model.seq2seq import Ranking
from model.tree import map_tensors

_WORTH_A_PASS = 48  # rows spared for which the first step of new sentences is a pass of its own
_FEW = 2  # sentences that stop for each end: they cannot step on in vain, and it is seldom one of so few
_AMONG_MANY = 3  # steps at a time of more: one that is decided has up to two in vain
_IN_VAIN = 16  # one sentence in so many may step beyond its limit


class Ahead(NamedTuple):
    """What some steps computed on the device; nothing has been changed by it."""

    steps: Integers  # (S, B, M + J), the keys of each, as :func:`model.search.extensions.best_extensions`
    state: EnsembleState  # after the last of them


class Batch:
    """B sentences with J rows each in the decoder: K hypotheses, or one in the first step of all."""

    def __init__(
        self, model: Ensemble, beams: Beams, memory: EnsembleMemory, restriction: Restriction | None = None
    ) -> None:
        """Sentences before their first step, with a slot of ``memory`` for each."""
        self.model, self.beams, self.memory = model, beams, SlotMemory(memory)
        self.fresh = True  # before the first step of all
        self._slots, self._compact = np.arange(len(beams)), True  # (B), where they stand in the memory; all in order
        self._state, self._state_rows = model.start(memory), len(beams)
        self._rows = self._slots[:, None]  # (B, J), where their hypotheses stand in the state
        self._restrict(restriction)

    def ahead(self, most: int) -> Ahead:
        """Rank the extensions of every hypothesis, and of the best of them, up to ``most`` steps ahead.

        One step where the host is needed after it, for a prefix or beams of different widths.
        """
        costs, token = self._inputs()
        strode = self._stride(costs, token, most)
        if strode is not None:
            return strode
        outputs = self.restriction.outputs if self.restriction else ()
        logits, state = self.model.step(self._state, token, self.memory.view, outputs)
        keys = best_extensions(logits, costs, self.beams.width, self._columns, self._forced(self.model.device))
        return Ahead(keys.cpu().numpy()[None], state)

    def _stride(self, costs: Tensor, token: Tensor, most: int) -> Ahead | None:
        """The same in one call, or None where the model has none or there is something that it would not know of."""
        if most == 1 or not self.model.strides or not self.beams.alike:
            return None
        alone = len(self.beams) <= _FEW
        in_vain = 0 if alone else len(self.beams) // _IN_VAIN
        most = min(most, most if alone else _AMONG_MANY, self.beams.room(in_vain) + 1)
        columns, allowed = self._columns, self.restriction.allowed if self.restriction else None
        barred = columns.barred.tolist()
        ranking = Ranking(costs, self.beams.width, columns.padded, columns.end, barred, alone, allowed)
        steps, state = self.model.stride(self._state, token, self.memory.view, ranking, most)
        return Ahead(steps.numpy(), state)

    def _inputs(self) -> tuple[Tensor, Tensor]:
        """Costs (B, J) and last pieces (B * J) of the hypotheses."""
        device, rows = self.model.device, self._rows.shape[1]
        costs = torch.from_numpy(np.ascontiguousarray(self.beams.costs[:, :rows])).to(device)
        return costs, torch.from_numpy(self.beams.last[:, :rows].reshape(-1)).to(device)

    def take(self, ahead: Ahead) -> list[Finished]:
        """Take the extensions; sentences that are decided leave once all steps are accounted for, and are returned."""
        found: list[Finished] = []
        steps, gone = ahead.steps, np.zeros(len(self.beams), dtype=np.bool_)
        while len(steps):
            rows, together = self._rows.shape[1], self.beams.uneventful(steps) if len(steps) > 1 else 1
            self._state_rows = len(self.beams) * (rows if len(steps) == 1 else self.beams.width)
            if together > 1:
                self._rows = self.beams.advance_all(steps[:together], rows, self._columns.padded, self._pieces)
                steps = steps[together:]
                continue
            keys = steps[0, :, : self.beams.width + rows]
            self._rows = self.beams.advance(keys, rows, self._columns.padded, self._pieces)
            decided = self.beams.decided() & ~gone
            found += [self.beams.finished(slot) for slot in np.flatnonzero(decided).tolist()]
            gone |= decided
            steps = steps[1:]
        self._state, self.fresh = ahead.state, False
        self.keep(~gone)
        return found

    def keep(self, kept: Booleans) -> None:
        """Drop the sentences that are not kept; the device learns of it at :meth:`settle`."""
        if not kept.all():
            order = filled(kept)
            self.beams.select(order)
            self._rows, self._slots, self._compact = self._rows[order], self._slots[order], False

    def settle(self, others: Sequence[Batch], *, fresh: bool) -> None:
        """Bring the tensors up to date, the sentences of ``others`` joining behind; ``fresh`` if none was stepped."""
        everyone = [self, *others]
        beams = Beams.join([batch.beams for batch in everyone]) if others else self.beams
        state, rows = _gathered(everyone, 1 if fresh else beams.width)
        for batch in everyone:
            batch._close_up()
        self.memory.fit([other.memory.view for other in others], beams.positions)
        if others:
            found = [batch.restriction for batch in everyone if batch.restriction]
            self._restrict(reduce(Restriction.join, found) if found else None)
        self.beams, self.fresh = beams, fresh
        if others:
            self._slots = np.arange(len(beams))
        self._state, self._state_rows, self._rows = state, rows.size, rows

    def _close_up(self) -> None:
        if self._compact:
            return
        self.memory.keep(self._slots)
        if self.restriction:
            self._restrict(self.restriction.select(torch.from_numpy(self._slots).to(self.model.device)))
        self._slots, self._compact = np.arange(len(self._slots)), True

    def _restrict(self, restriction: Restriction | None) -> None:
        self.restriction, config = restriction, self.model.config
        barred = torch.tensor([config.eos, config.pad, config.bos], device=self.model.device)
        if restriction is None:
            self._pieces, self._columns = None, Columns(config.target_vocabulary, config.eos, barred)
            return
        barred = restriction.places(barred)
        self._pieces = restriction.pieces.cpu().numpy()
        self._columns = Columns(len(self._pieces), int(barred[0]), barred, restricted=True)

    def _forced(self, device: torch.device) -> Forced | None:
        found = self.beams.forced()
        if not found:
            return None
        slots, pieces = torch.tensor(found, device=device).unbind(1)
        return Forced(slots, self.restriction.places(pieces) if self.restriction else pieces)


def settle(batches: Sequence[Batch]) -> list[Batch]:
    """The sentences of ``batches`` as one batch, or as two where the first step of the new ones alone spares enough.

    Before its first step a sentence has one hypothesis, and one row is all that it needs; but every pass through the
    model reads all of its weights.
    """
    running = [batch for batch in batches if not batch.fresh]
    fresh = [batch for batch in batches if batch.fresh]
    spared = sum(len(batch.beams) * (batch.beams.width - 1) for batch in fresh)
    if running and spared < _WORTH_A_PASS:
        running, fresh = [*running, *fresh], []
    for group in (running, fresh):
        if group:
            group[0].settle(group[1:], fresh=group is fresh)
    return [group[0] for group in (running, fresh) if group]


def filled(kept: Booleans) -> Integers:
    """Those that are ``kept``, the last of them in the places of those that are not: int64 (B')."""
    order = np.arange(int(kept.sum()))
    order[~kept[: len(order)]] = np.flatnonzero(kept[len(order) :]) + len(order)
    return order


def _gathered(batches: Sequence[Batch], rows: int) -> tuple[EnsembleState, Integers]:
    """Their states as one with ``rows`` rows a sentence, and which rows of it each sentence has."""
    each = [_widened(batch._rows, rows).reshape(-1) for batch in batches]
    count = sum(map(len, each))
    places = np.arange(count).reshape(-1, rows)
    if len(batches) == 1 and _is_range(each[0], batches[0]._state_rows):
        return batches[0]._state, places
    index = [torch.from_numpy(part).to(batch.model.device) for part, batch in zip(each, batches, strict=True)]
    if len(batches) == 1:
        return batches[0]._state.select(index[0]), places

    def gather(*parts: Tensor) -> Tensor:
        gathered = parts[0].new_empty((count, *parts[0].shape[1:]))
        start = 0
        for part, chosen in zip(parts, index, strict=True):
            torch.index_select(part, 0, chosen, out=gathered[start : start + len(chosen)])
            start += len(chosen)
        return gathered

    return map_tensors(gather, *[batch._state for batch in batches]), places


def _widened(rows: Integers, width: int) -> Integers:
    """``rows`` (B, J) as (B, width): what is added is dead, and as good as any; what is cut is dead."""
    lacking = width - rows.shape[1]
    return np.pad(rows, ((0, 0), (0, lacking)), mode="edge") if lacking > 0 else rows[:, :width]


def _is_range(numbers: Integers, length: int) -> bool:
    """Whether ``numbers`` are 0, 1, ... to ``length``."""
    return len(numbers) == length and bool((numbers == np.arange(length)).all())
