"""A step that never ends: the service says that it is not ready, and then ends for somebody to start it anew."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from service_process import serving

from app.engine.watchdog import EXIT_STATUS
from app.settings import BUNDLED
from tests.system.faulty_service import FAULTY, STANDSTILL

STUCK_SECONDS = 6.0


def test_a_step_that_never_ends_makes_the_service_unready_and_then_end(tmp_path: Path) -> None:
    flags = ("--checkpoint", BUNDLED / "en-de", "--stuck-seconds", str(STUCK_SECONDS))
    with serving(tmp_path, *flags, ferry=FAULTY) as service, ThreadPoolExecutor() as pool:
        body = {"text": STANDSTILL, "source": "en", "target": "de"}
        asked = pool.submit(httpx.post, f"{service.url}/v1/translate", json=body, timeout=120)
        unready = first_unready(f"{service.url}/health/ready")
        assert "stood still" in unready.json()["detail"]
        assert service.process.wait(60) == EXIT_STATUS
        with pytest.raises(httpx.TransportError):
            asked.result()
        text = service.log_file.read_text()
        assert "the engine stands still" in text and "in spoilt" in text, "the log says where it stood"


def first_unready(url: str) -> httpx.Response:
    until = time.monotonic() + 60
    while (response := httpx.get(url, timeout=60)).status_code == 200:
        assert time.monotonic() < until
        time.sleep(0.05)
    return response
