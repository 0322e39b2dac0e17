"""SIGHUP: by long custom the wish that a service read its files anew."""

from __future__ import annotations

import signal
from types import FrameType


class Hangup:
    """Remembers that SIGHUP came; from the moment it is made the signal no longer ends the process."""

    def __init__(self) -> None:
        self._pending = False
        signal.signal(signal.SIGHUP, self._note)

    def take(self) -> bool:
        """Whether it came since this was asked last."""
        pending, self._pending = self._pending, False
        return pending

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._pending = True
