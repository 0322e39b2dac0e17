"""How soon ``ferry serve`` is ready, and how much memory it takes at rest and after work.

python -m tests.bench.bench_start --repeats 5 -- --checkpoint app/checkpoints/en-de --precision int8

What stands behind ``--`` goes to ``ferry serve``. Linux only: memory and processor time are read from /proc.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

FERRY = Path(sys.executable).with_name("ferry")
LONGEST_START_SECONDS = 300.0
REQUESTS = 50
TEXT = "Where is the station? I would like to go there with you, if it is not too far from here."
TICKS = os.sysconf("SC_CLK_TCK")


class Start(NamedTuple):
    """One start of the service."""

    ready_seconds: float
    processor_seconds: float  # until it was ready
    resident_mb: float  # when it was ready
    working_mb: float  # after the requests
    peak_mb: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("serve", nargs="*", help="flags of ferry serve")
    arguments = parser.parse_args()
    print(
        f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores; import torch: {_importing('torch'):.2f} s of processor"
    )
    starts = [_start(arguments.serve) for _ in range(arguments.repeats)]
    for name, unit in (
        ("ready_seconds", "s"),
        ("processor_seconds", "s"),
        ("resident_mb", "MB"),
        ("working_mb", "MB"),
        ("peak_mb", "MB"),
    ):
        values = [getattr(start, name) for start in starts]
        print(f"{name:18} median {statistics.median(values):7.2f} {unit} ({min(values):.2f} to {max(values):.2f})")


def _importing(module: str) -> float:
    command = [sys.executable, "-c", f"import time, {module}; print(time.process_time())"]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def _start(flags: list[str]) -> Start:
    with tempfile.TemporaryFile("w+") as log:
        began = time.monotonic()
        with subprocess.Popen([FERRY, "serve", "--port", "0", *flags], stdout=log, stderr=log) as process:
            try:
                port = _ready(process, Path(f"/proc/self/fd/{log.fileno()}"))
                seconds, used = time.monotonic() - began, _processor_seconds(process.pid)
                resident = _memory(process.pid, "VmRSS")
                for number in range(REQUESTS):
                    _translate(port, f"{TEXT} {number}")  # no two alike, for the cache's sake
                working, peak = _memory(process.pid, "VmRSS"), _memory(process.pid, "VmHWM")
            finally:
                process.terminate()
    return Start(seconds, used, resident, working, peak)


def _ready(process: subprocess.Popen[bytes], log: Path) -> int:
    """Wait until the service is ready; returns its port."""
    until = time.monotonic() + LONGEST_START_SECONDS
    while process.poll() is None and time.monotonic() < until:
        if found := re.search(r"running on http://[\d.]+:(\d+)", log.read_text()):
            try:
                if _status(int(found[1]), "GET", "/health/ready") == 200:
                    return int(found[1])
            except OSError:
                pass
        time.sleep(0.01)
    sys.exit(f"the service was not ready in time, or ended:\n{log.read_text()}")


def _translate(port: int, text: str) -> None:
    pairs = json.loads(_body(port, "GET", "/v1/languages"))["pairs"]
    body = {"text": text, "source": pairs[0]["source"], "target": pairs[0]["target"]}
    _body(port, "POST", "/v1/translate", json.dumps(body))


def _status(port: int, method: str, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path)
    return connection.getresponse().status


def _body(port: int, method: str, path: str, body: str | None = None) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        sys.exit(f"{method} {path}: {response.status} {response.read().decode()}")
    return response.read()


def _memory(pid: int, name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) / 1024


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


if __name__ == "__main__":
    main()
