"""How much may be translated together."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from app.engine.jobs import SegmentJob

LEAST_ENCODED = 256  # tokens
RELIEF_SECONDS = 5.0


class Budget(NamedTuple):
    """Bounds of a batch."""

    tokens: int  # sentences times the longest source, end-of-sentence included
    rows: int  # sentences times the widest beam

    @property
    def encoded(self) -> int:
        """Source tokens, padding included, that may be encoded between two steps.

        Several times what joins in a step of a batch that is kept full, and less work than that step: so a flood of
        arrivals at most about doubles the time between two steps.
        """
        return max(LEAST_ENCODED, self.rows)

    def share(self, count: int) -> Budget:
        """An equal share for one of ``count``."""
        return Budget(self.tokens // max(count, 1), self.rows // max(count, 1))


def size(jobs: Sequence[SegmentJob]) -> Budget:
    """What ``jobs`` need together."""
    longest = max((job.tokens for job in jobs), default=0)
    widest = max((job.options.beam_size for job in jobs), default=0)
    return Budget(len(jobs) * longest, len(jobs) * widest)


class Room:
    """The space that a batch has left, filled by one sentence after another."""

    def __init__(self, budget: Budget, jobs: Sequence[SegmentJob]) -> None:
        """``jobs`` are in the batch already."""
        self._budget = budget
        self._sentences = len(jobs)
        self._longest = max((job.tokens for job in jobs), default=0)
        self._widest = max((job.options.beam_size for job in jobs), default=0)
        self._arrivals = self._longest_arrival = 0
        self.full = False  # a sentence was refused for want of space, not to leave the next some of the encoding

    def admits(self, job: SegmentJob) -> bool:
        """Whether ``job`` may join; if so it takes its space. A sentence alone may always, whatever its size."""
        sentences, arrivals = self._sentences + 1, self._arrivals + 1
        longest, widest = max(self._longest, job.tokens), max(self._widest, job.options.beam_size)
        longest_arrival = max(self._longest_arrival, job.tokens)
        fits = sentences * longest <= self._budget.tokens and sentences * widest <= self._budget.rows
        if self._sentences and not fits:
            self.full = True
            return False
        if self._arrivals and arrivals * longest_arrival > self._budget.encoded:
            return False
        self._sentences, self._longest, self._widest = sentences, longest, widest
        self._arrivals, self._longest_arrival = arrivals, longest_arrival
        return True


class Allowance:
    """The budget, less what memory turned out not to hold: that is tried again little by little."""

    def __init__(self, budget: Budget, clock: Callable[[], float] = time.monotonic) -> None:
        self._full = self._allowed = budget
        self._clock, self._since = clock, 0.0

    @property
    def budget(self) -> Budget:
        """Doubled for every ``RELIEF_SECONDS`` that went well, up to the full budget."""
        while self._allowed != self._full and self._clock() - self._since >= RELIEF_SECONDS:
            self._since += RELIEF_SECONDS
            self._allowed = Budget(*(min(2 * now, most) for now, most in zip(self._allowed, self._full, strict=True)))
        return self._allowed

    def halve(self, failed: Budget) -> None:
        """Memory did not hold ``failed``: allow half of it."""
        self._since = self._clock()
        halves = (max(1, min(now, size // 2)) for now, size in zip(self.budget, failed, strict=True))
        self._allowed = Budget(*halves)


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out; torch raises a RuntimeError of many wordings for that on a CPU."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        words in text for words in ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate")
    )
