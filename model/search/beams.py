"""The live hypotheses of the sentences in a search, and how they came about: small arrays on the host.

The device only ranks extensions (:mod:`model.search.extensions`); what follows from them is decided here, for all
sentences at once. B sentences, K hypotheses, the widest beam; a narrower one's last rows are dead, as are those that
nothing extends: their cost is infinite. Hypotheses are kept as pieces and back pointers, so that a step writes a
column of them and copies none; those that are asked for are traced back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model.search.extensions import NEVER, PLACES
from model.search.sentence import Finished, Hypothesis, Sentence
from model.search.slots import COLUMNS, Booleans, Integers, Slots, resized


class Beams:
    """Sentences and their hypotheses."""

    _slots: Slots
    # What is known of all slots without looking at each in every step:
    _uniform: bool  # every sentence's beam is as wide as the widest
    _prefixed: bool  # a sentence may have a prefix that lasts
    _finishing: bool  # a sentence may have hypotheses that have finished
    _longest: int  # pieces of the sentence that has most
    _room: int  # pieces that the sentence next to its limit may still have
    positions: int  # source positions of the longest source

    def __init__(self, sentences: Sequence[Sentence], slots: Slots) -> None:
        self.sentences = list(sentences)
        self._use(slots)

    @classmethod
    def begin(cls, sentences: Sequence[Sentence], bos: int) -> Beams:
        """One hypothesis each, begin-of-sentence, of cost 0."""
        beam = np.array([sentence.options.beam_size for sentence in sentences])
        count, width = len(sentences), int(beam.max())
        cost = np.full((count, width), np.inf, dtype=np.float32)
        cost[:, 0] = 0.0
        penalties = [item.options.length_penalty.penalty(item.limit + 1) for item in sentences]
        slots = Slots(
            cost=cost,
            piece=np.full((count, width), bos),
            length=np.zeros(count, dtype=np.int64),
            beam=beam,
            limit=np.array([sentence.limit for sentence in sentences]),
            prefix=np.array([len(sentence.options.prefix) for sentence in sentences]),
            positions=np.array([sentence.positions for sentence in sentences]),
            ended=np.zeros(count, dtype=np.int64),
            last_penalty=np.array(penalties, dtype=np.float64),
            bar=np.full(count, -np.inf),
            pieces=np.zeros((count, COLUMNS, width), dtype=np.int32),
            parents=np.zeros((count, COLUMNS, width), dtype=np.int32),
        )
        return cls(sentences, slots)

    @classmethod
    def join(cls, beams: Sequence[Beams]) -> Beams:
        """The sentences of all ``beams``, as wide as the widest of their sentences' beams."""
        sentences = [sentence for item in beams for sentence in item.sentences]
        width = max(item.width for item in beams)
        columns = max(item._slots.pieces.shape[1] for item in beams)
        each = [resized(item._slots, width, columns) for item in beams]
        joined = each[0] if len(each) == 1 else Slots._make(map(np.concatenate, zip(*each, strict=True)))
        return cls(sentences, joined)

    def __len__(self) -> int:
        return len(self.sentences)

    @property
    def width(self) -> int:
        """Hypotheses of a slot."""
        return int(self._slots.cost.shape[1])

    @property
    def costs(self) -> NDArray[np.float32]:
        """(B, K) log-probability of each hypothesis, its sign turned, infinite where none lives; best first."""
        return self._slots.cost

    @property
    def last(self) -> Integers:
        """(B, K) the last piece of each hypothesis."""
        return self._slots.piece

    def room(self, without: int) -> int:
        """Steps until more sentences than ``without`` may have no more pieces."""
        if not without:
            return self._room
        return int(np.partition(self._slots.limit - self._slots.length, without)[without])

    @property
    def alike(self) -> bool:
        """Whether no sentence has a rule of its own, a prefix or a narrower beam than others."""
        return not self._prefixed and self._uniform

    def forced(self) -> list[tuple[int, int]]:
        """Slots whose prefix lasts, with the next piece of it."""
        if not self._prefixed:
            return []
        within = self._slots.length < self._slots.prefix
        self._prefixed = bool(within.any())
        slots = np.flatnonzero(within)
        pairs = zip(slots.tolist(), self._slots.length[slots].tolist(), strict=True)
        return [(slot, self.sentences[slot].options.prefix[length]) for slot, length in pairs]

    def advance(self, keys: Integers, rows: int, columns: int, pieces: Integers | None) -> Integers:
        """Take the extensions; returns the row, of B * rows, that each hypothesis now alive (B, K) extended.

        ``keys`` (B, M + rows) are those of :func:`model.search.extensions.best_extensions`, whose places count
        ``columns`` a row; ``pieces`` (V) says of which piece a column is, where they are not the same.
        """
        slots = self._lengthened()
        count, width = slots.cost.shape
        going = _filled_up(keys[:, :-rows], width)
        if self._room <= 0:
            going[slots.length >= slots.limit] = NEVER  # only the end may follow
        self._end(going, keys[:, -rows:])
        first = np.arange(0, count * rows, rows)[:, None]  # each sentence's first row
        row, column = np.divmod(going & (PLACES - 1), columns)
        piece = column if pieces is None else pieces[column]
        cost = (going >> 32).astype(np.int32).view(np.float32)
        alive = going < NEVER
        if not self._uniform:
            alive &= np.arange(width) < slots.beam[:, None]
        if not alive.all():
            # Dead rows stay where they are: where nothing moves, nothing need be copied.
            row = np.where(alive, row, first + np.minimum(np.arange(width), rows - 1))
            piece, cost = np.where(alive, piece, 0), np.where(alive, cost, np.float32(np.inf))
        slot = np.arange(count)
        slots.pieces[slot, slots.length], slots.parents[slot, slots.length] = piece, row - first
        self._slots = slots._replace(cost=cost, piece=piece, length=slots.length + 1)
        self._longest, self._room = self._longest + 1, self._room - 1
        return row

    def uneventful(self, keys: Integers) -> int:
        """In how many of the next steps, of their ``keys`` (S, B, 2K), every hypothesis lives on and no sentence ends.

        All but the last of them are free ones.
        """
        slots, last = self._slots, keys[:, :, self.width - 1]
        events = keys[:, :, self.width :].min(axis=2) <= last
        events |= last >= NEVER
        if self._finishing:
            costs = (keys[:, :, 0] >> 32).astype(np.int32).view(np.float32)
            events |= -costs.astype(np.float64) / slots.last_penalty <= slots.bar
        eventful = events.any(axis=1)
        return min(int(eventful.argmax()) if eventful.any() else len(keys), self._room)

    def advance_all(self, keys: Integers, rows: int, columns: int, pieces: Integers | None) -> Integers:
        """As :meth:`advance` for each of some uneventful steps, of ``keys`` (S, B, 2K); the rows are the last's.

        ``rows`` a sentence there are in the first of them: K, or one.
        """
        steps, count, width = len(keys), len(self), self.width
        slots, going = self._lengthened(steps), keys[:, :, :width]
        row, column = np.divmod(going & (PLACES - 1), columns)
        piece = column if pieces is None else pieces[column]
        slot, places = np.arange(count)[:, None], slots.length[:, None] + np.arange(steps)
        first = np.arange(0, count * width, width)[:, None]
        slots.pieces[slot, places] = piece.transpose(1, 0, 2)
        slots.parents[slot, places] = (row - first).transpose(1, 0, 2)
        if rows < width:
            slots.parents[slot[:, 0], places[:, 0]] = 0
        cost = (going[-1] >> 32).astype(np.int32).view(np.float32)
        self._slots = slots._replace(cost=cost, piece=piece[-1], length=slots.length + steps)
        self._longest, self._room = self._longest + steps, self._room - steps
        last: Integers = row[-1]
        return last

    def _lengthened(self, steps: int = 1) -> Slots:
        """With room for so many more pieces of every hypothesis."""
        columns, needed = self._slots.pieces.shape[1], self._longest + steps
        return self._slots if needed <= columns else resized(self._slots, self.width, max(needed, 2 * columns))

    def _end(self, going: Integers, ending: Integers) -> None:
        """Finish the hypotheses whose end is among the best k extensions; ``ending`` (B, rows) are the ends' keys."""
        slots = self._slots
        near = ending.min(axis=1) <= going[np.arange(len(self)), slots.beam - 1]
        if not near.any():
            return
        touched = np.flatnonzero(near)
        both = np.sort(np.concatenate([going[touched], ending[touched]], axis=1), axis=1)
        bars = np.minimum(both[np.arange(len(touched)), slots.beam[touched] - 1], NEVER - 1)
        for slot, bar in zip(touched.tolist(), bars.tolist(), strict=True):
            ranked = sorted((key, row) for row, key in enumerate(ending[slot].tolist()) if key <= bar)
            self._finish(slot, ranked)

    def _finish(self, slot: int, ranked: list[tuple[int, int]]) -> None:
        slots, sentence = self._slots, self.sentences[slot]
        costs = (np.array([key for key, _ in ranked], dtype=np.int64) >> 32).astype(np.int32).view(np.float32).tolist()
        for cost, (_, row) in zip(costs, ranked, strict=True):
            sentence.finish(0.0 - cost, int(slots.length[slot]), row)
        slots.ended[slot] += len(ranked)
        self._finishing = True
        if ranked and len(sentence.ends) == sentence.options.n_best:
            slots.bar[slot] = sentence.ends[-1].score

    def decided(self) -> Booleans:
        """Which sentences' results stand."""
        slots = self._slots
        over: Booleans = slots.cost[:, 0] == np.inf
        if self._room < 0:
            over |= slots.length > slots.limit
        if self._finishing:
            over |= (slots.ended >= slots.beam) | self.certain()
        return over

    def certain(self) -> Booleans:
        """Which sentences no live hypothesis can change: the best could not rise above the n-th best finished."""
        slots = self._slots
        bound: Booleans = -slots.cost[:, 0].astype(np.float64) / slots.last_penalty <= slots.bar
        return bound

    def finished(self, slot: int) -> Finished:
        """A decided sentence's best finished hypotheses."""
        sentence = self.sentences[slot]
        hypotheses = [
            Hypothesis(self._trace(slot, end.length, end.row), end.score, end.log_probability) for end in sentence.ends
        ]
        return Finished(sentence.ticket, hypotheses)

    def interrupted(self, slot: int) -> Finished:
        """The best that a sentence has: what has finished, or its best live hypotheses, all of one length."""
        sentence, length = self.sentences[slot], int(self._slots.length[slot])
        if sentence.ends:
            return self.finished(slot)._replace(complete=False)
        penalty = sentence.options.length_penalty.penalty(max(1, length))
        costs = self._slots.cost[slot, : sentence.options.n_best].tolist()
        hypotheses = [
            Hypothesis(self._trace(slot, length, row), 0.0 - cost / penalty, 0.0 - cost)
            for row, cost in enumerate(costs)
            if cost < math.inf
        ]
        return Finished(sentence.ticket, hypotheses, complete=False)

    def _trace(self, slot: int, length: int, row: int) -> tuple[int, ...]:
        """The first ``length`` pieces of what a row then held."""
        pieces = self._slots.pieces[slot, :length].tolist()
        parents = self._slots.parents[slot, :length].tolist()
        traced = []
        for position in reversed(range(length)):
            traced.append(pieces[position][row])
            row = parents[position][row]
        return tuple(reversed(traced))

    def select(self, order: Integers) -> None:
        """Keep the slots ``order`` (B'), in this order, as wide as the widest of their beams."""
        self.sentences = [self.sentences[slot] for slot in order.tolist()]
        slots = Slots._make(part[order] for part in self._slots)
        if self.sentences and int(slots.beam.max()) < self.width:
            slots = resized(slots, int(slots.beam.max()), slots.pieces.shape[1])
        self._use(slots)

    def _use(self, slots: Slots) -> None:
        self._slots, self._uniform = slots, bool((slots.beam == slots.cost.shape[1]).all())
        self._prefixed, self._finishing = bool(slots.prefix.any()), bool(slots.ended.any())
        self._longest, self.positions = int(slots.length.max(initial=0)), int(slots.positions.max(initial=0))
        self._room = int((slots.limit - slots.length).min()) if len(slots.limit) else 0


def _filled_up(keys: Integers, width: int) -> Integers:
    """``keys`` (B, M), and none in the columns up to ``width``."""
    lacking = width - keys.shape[1]
    return np.pad(keys, ((0, 0), (0, lacking)), constant_values=NEVER) if lacking else keys
