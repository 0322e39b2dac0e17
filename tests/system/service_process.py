"""``ferry serve`` as a process of its own, on a free port of the loopback address."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx

FERRY = Path(sys.executable).with_name("ferry")
STARTING_SECONDS = 180  # torch loads slowly on a busy machine


class ServiceProcess(NamedTuple):
    """A service that is ready."""

    process: subprocess.Popen[bytes]
    url: str
    log_file: Path

    def log(self) -> list[dict[str, Any]]:
        """Every line of its log."""
        return [json.loads(line) for line in self.log_file.read_text().splitlines()]

    def metric(self, line: str) -> float:
        """The value of the metric that starts with ``line``; 0 if it is not there."""
        found = re.search(
            f"^{re.escape(line)} (.+)$", httpx.get(f"{self.url}/metrics", timeout=STARTING_SECONDS).text, re.MULTILINE
        )
        return float(found[1]) if found else 0.0


@contextmanager
def serving(folder: Path, *arguments: str | Path, ferry: Sequence[str | Path] = (FERRY,)) -> Iterator[ServiceProcess]:
    """Start ``ferry serve``, wait until it is ready, and end it; its log is written into ``folder``.

    ``ferry`` is the command, where it is not the one that is installed.
    """
    log_file = folder / "service.log"
    # However slow the machine: what may wait is for the queue's tokens to say, unless a test says otherwise. By
    # measuring, one service could choose another precision than the next.
    command = [*ferry, "serve", "--port", "0", "--threads", "1", "--longest-wait-seconds", "3600"]
    command += ["--precision", "float32", *arguments]
    with log_file.open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            service = ServiceProcess(process, _url(process, log_file), log_file)
            _wait(lambda: _is_ready(service), process, log_file)
            yield service
        finally:
            process.kill()


def _is_ready(service: ServiceProcess) -> bool:
    return httpx.get(f"{service.url}/health/ready", timeout=STARTING_SECONDS).status_code == 200


def _url(process: subprocess.Popen[bytes], log_file: Path) -> str:
    pattern = re.compile(r"running on (http://[\d.:]+)")
    _wait(lambda: pattern.search(log_file.read_text()) is not None, process, log_file)
    found = pattern.search(log_file.read_text())
    assert found
    return found[1]


def _wait(condition: Callable[[], bool], process: subprocess.Popen[bytes], log_file: Path) -> None:
    until = time.monotonic() + STARTING_SECONDS
    while not condition():
        assert process.poll() is None and time.monotonic() < until, log_file.read_text()
        time.sleep(0.1)
