"""Ends a process whose engine stands still."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
from collections.abc import Callable

import structlog

log = structlog.get_logger(__name__)

EXIT_STATUS = 70  # EX_SOFTWARE of sysexits.h: whoever runs the service starts it anew
LOOKS = 10  # within the time after which it acts


def exit_process() -> None:
    """Print where every thread is, and end the process at once: a thread inside torch would hold up any other end."""
    faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
    sys.stderr.flush()
    os._exit(EXIT_STATUS)


class Watchdog:
    """Calls ``act``, once, when no heartbeat was seen for ``seconds``.

    It counts the times that it looked, not the time that passed: a process that was suspended, with all its threads,
    has not stood still.
    """

    def __init__(self, heartbeat: Callable[[], float], seconds: float, act: Callable[[], None] = exit_process) -> None:
        """``heartbeat`` returns another number whenever the engine has moved."""
        self._heartbeat, self._seconds, self._act = heartbeat, seconds, act
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ferry-watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()

    def _run(self) -> None:
        last, silent = self._heartbeat(), 0
        while not self._stopped.wait(self._seconds / LOOKS):
            now = self._heartbeat()
            silent = silent + 1 if now == last else 0
            last = now
            if silent >= LOOKS:
                log.critical("the engine stands still", seconds=self._seconds)
                self._act()
                return
