"""A sentence in the search, and what becomes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from model.search.options import SearchOptions


class Hypothesis(NamedTuple):
    """A finished translation."""

    pieces: tuple[int, ...]  # end-of-sentence left out
    score: float  # log-probability over the length penalty
    log_probability: float  # of the pieces and end-of-sentence, natural logarithm


class Finished(NamedTuple):
    """A sentence that left: its hypotheses, best first, ``n_best`` of them (fewer only if there were fewer)."""

    ticket: int
    hypotheses: list[Hypothesis]
    complete: bool = True  # false where it was interrupted: these are the best so far


class End(NamedTuple):
    """A hypothesis that has finished; its pieces are traced back only if it is among those that are given."""

    score: float
    log_probability: float
    length: int  # pieces before end-of-sentence
    row: int  # of the beam that it ended


class Sentence:
    """What a sentence asked for, and the best that it has finished so far."""

    def __init__(self, ticket: int, source: Sequence[int], options: SearchOptions, limit: int) -> None:
        self.ticket, self.options, self.limit = ticket, options, limit
        self.positions = len(source) + 1  # of the source, end-of-sentence included
        self.ends: list[End] = []  # the n best, best first

    def finish(self, log_probability: float, length: int, row: int) -> None:
        """Keep a hypothesis if it is among the n best; of equal ones the earlier comes first."""
        score = log_probability / self.options.length_penalty.penalty(length + 1)
        self.ends.append(End(score, log_probability, length, row))
        self.ends.sort(key=lambda end: -end.score)  # stable
        del self.ends[self.options.n_best :]
