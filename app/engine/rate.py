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
