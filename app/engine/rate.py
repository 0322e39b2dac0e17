"""How fast the engine works, measured."""

from __future__ import annotations

import math

WINDOW_SECONDS = 7.0  # work this long ago counts 1/e of what work counts now


class Rate:
    """Source tokens finished for each second of work; idle time does not count."""

    def __init__(self) -> None:
        self._tokens = 0.0
        self._seconds = 0.0

    def note(self, tokens: float, seconds: float) -> None:
        """``tokens`` were finished in the last ``seconds`` of work."""
        keep = math.exp(-seconds / WINDOW_SECONDS)
        self._tokens = self._tokens * keep + tokens
        self._seconds = self._seconds * keep + seconds

    @property
    def per_second(self) -> float:
        """0 before anything was measured."""
        return self._tokens / self._seconds if self._seconds else 0.0


class Speed:
    """What a lane does, and what it can do.

    A few sentences go slower together than many, so the rate of an idle afternoon says nothing of a full batch.
    ``capacity`` is what steps of a full batch achieve: the sentences that advance by a step in a second, times the
    source tokens that are done, in the end, for each such advance. Counting what a full batch finishes would not do:
    one that fills has finished nothing yet, and one that empties is full no more.
    """

    def __init__(self, tokens_per_second: float) -> None:
        """It can do ``tokens_per_second``, as measured at the start; that counts as a second of work."""
        self.lately = Rate()
        self._advances = Rate()  # sentences times steps, of a full batch
        self._advances_lately = Rate()  # the same in all steps
        for rate in (self.lately, self._advances, self._advances_lately):
            rate.note(tokens_per_second, 1.0)

    def note(self, tokens: float, advances: int, seconds: float, full: bool) -> None:
        """In ``seconds`` sentences finished, of ``tokens`` together; the batch was full or not.

        ``advances`` are the sentences in the batch times the steps taken.
        """
        self.lately.note(tokens, seconds)
        self._advances_lately.note(advances, seconds)
        if full:
            self._advances.note(advances, seconds)

    @property
    def capacity(self) -> float:
        """Source tokens a second of a full batch."""
        lately = self._advances_lately.per_second
        tokens_an_advance = self.lately.per_second / lately if lately else 0.0
        return max(self.lately.per_second, self._advances.per_second * tokens_an_advance)
