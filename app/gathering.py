"""An event loop that looks at its sockets seldom while requests wait anyway."""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable
from selectors import SelectorKey

SHARE = 0.02  # of the wait of a sentence that came now
LONGEST_SECONDS = 0.04


class GatheringSelector(selectors.DefaultSelector):
    """What happened on the sockets, a while's together; a while is a small share of what has to be waited for anyway.

    Each time that the event loop wakes up it takes a core, its caches and Python's lock from the lanes, for one arrival
    as for ten; under load that costs more than the arrivals do. So after each look the next one comes ``SHARE`` of the
    wait later, ``LONGEST_SECONDS`` at most, and until then the loop goes on with what it has, or sleeps. Where nothing
    is waited for it looks at once, as any.
    """

    def __init__(self, wait_seconds: Callable[[], float]) -> None:
        """``wait_seconds`` tells how long a sentence that came now would wait."""
        super().__init__()
        self._wait_seconds = wait_seconds
        self._next = 0.0  # look; a reading of ``time.monotonic()``

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        """What is ready, after ``timeout`` seconds at the latest; nothing at once where it is 0 and a look too soon."""
        pause = self._next - time.monotonic()
        if pause > 0:
            asleep = pause if timeout is None else min(pause, timeout)
            if asleep:
                time.sleep(asleep)
            if timeout is not None:
                if timeout < pause:
                    return []
                timeout -= pause
        ready = super().select(timeout)
        wait = self._wait_seconds()
        self._next = time.monotonic() + min(SHARE * wait, LONGEST_SECONDS) if wait else 0.0
        return ready


def event_loop(wait_seconds: Callable[[], float]) -> asyncio.AbstractEventLoop:
    """One that gathers."""
    return asyncio.SelectorEventLoop(GatheringSelector(wait_seconds))
