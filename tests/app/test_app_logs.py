"""The log: lines of JSON, and nothing that fails with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import logging, structlog
from app import logs
logs.configure("info")
structlog.contextvars.bind_contextvars(request_id="r1")
ours = structlog.get_logger("app.requests")
ours.debug("not to be seen")
ours.info("request", path="/caf\\u00e9\\n", odd=object)
try:
    raise ValueError("wrong")
except ValueError:
    ours.exception("failed")
logging.getLogger("uvicorn.error").warning("theirs, %d", 1)
print("done", flush=True)
"""


def logged(stderr: Path) -> str:
    """Standard output of the script, whose log goes to ``stderr``."""
    with stderr.open("wb") as file:
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=file, text=True, check=False
        )
    return run.stdout


def test_an_event_is_a_line_of_json_whoever_logs_it(tmp_path: Path) -> None:
    assert logged(tmp_path / "log") == "done\n"
    first, second, third = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert {"event": "request", "level": "info", "logger": "app.requests", "request_id": "r1"}.items() <= first.items()
    assert first["path"] == "/café\n" and first["odd"] == "<class 'object'>" and first["timestamp"].endswith("Z")
    assert second["level"] == "error" and second["exception"].endswith("ValueError: wrong")
    assert {"event": "theirs, 1", "level": "warning", "logger": "uvicorn.error"}.items() <= third.items()


def test_nothing_fails_where_the_log_cannot_be_written() -> None:
    assert logged(Path("/dev/full")) == "done\n"
