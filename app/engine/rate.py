"""How fast the engine works, measured."""

from __future__ import annotations

import math

WINDOW_SECONDS = 10.0  # work this long ago counts 1/e of what work counts now


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

    A few sentences go slower together than many, so the rate of an idle afternoon says nothing of a full batch:
    ``capacity`` is measured only while sentences wait that the batch has no room for.
    """

    def __init__(self, tokens_per_second: float) -> None:
        """It can do ``tokens_per_second``, as measured at the start; that counts as a second of work."""
        self.lately, self._saturated = Rate(), Rate()
        for rate in (self.lately, self._saturated):
            rate.note(tokens_per_second, 1.0)

    def note(self, tokens: float, seconds: float, saturated: bool) -> None:
        """``tokens`` were finished in the last ``seconds`` of work, while others did or did not wait."""
        self.lately.note(tokens, seconds)
        if saturated:
            self._saturated.note(tokens, seconds)

    @property
    def capacity(self) -> float:
        """Source tokens a second of a full batch."""
        return max(self._saturated.per_second, self.lately.per_second)
