"""Several processes on one port, as an operator meets them: they share requests, signals and metrics."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from service_process import FERRY, ServiceProcess, serving

from tests.conftest import write_checkpoint
from tokenizer.subword import TokenizerPair

BODY = {"text": "The river is wide.", "source": "en", "target": "de"}
PATIENCE_SECONDS = 180.0
TOKEN = "for-tests"
WORKERS = ("--workers", "2", "--admin-token", TOKEN)


@pytest.fixture(scope="module")
def folder(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path_factory.mktemp("served") / "en-de"))


@pytest.fixture(scope="module")
def service(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with serving(tmp_path_factory.mktemp("workers"), "--checkpoint", folder, *WORKERS) as started:
        until(lambda: started.metric("ferry_workers") == 2)
        yield started


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, "what the test waits for did not happen"
        time.sleep(0.1)


def workers(service: ServiceProcess) -> set[int]:
    """The processes that serve; multiprocessing has a helper of its own beside them."""
    children = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children").read_text().split()
    return {int(pid) for pid in children if "resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_text()}


def ask(service: ServiceProcess) -> httpx.Response:
    """On a connection of its own, so that either worker may get it."""
    return httpx.post(f"{service.url}/v1/translate", json=BODY, timeout=60)


def reload(service: ServiceProcess) -> httpx.Response:
    header = {"Authorization": f"Bearer {TOKEN}"}
    return httpx.post(f"{service.url}/admin/reload", headers=header, timeout=PATIENCE_SECONDS)


def test_requests_are_answered_alike_and_counted_together(service: ServiceProcess) -> None:
    before = service.metric('ferry_requests_total{route="/v1/translate",status="200"}')
    answers = {ask(service).json()["translations"][0]["text"] for _ in range(20)}
    assert len(answers) == 1
    assert service.metric('ferry_requests_total{route="/v1/translate",status="200"}') == before + 20
    assert service.metric("ferry_resident_memory_bytes") > 0


def test_a_worker_that_dies_is_replaced_while_the_others_serve(service: ServiceProcess) -> None:
    victim = min(workers(service))
    os.kill(victim, signal.SIGKILL)
    until(lambda: victim not in workers(service))
    assert ask(service).status_code == 200
    until(lambda: service.metric("ferry_workers") == 2)
    assert victim not in workers(service) and len(workers(service)) == 2


def test_a_hangup_reloads_all_of_them(service: ServiceProcess, folder: Path, tiny_tokenizer: TokenizerPair) -> None:
    old = ask(service).json()["translations"][0]["text"]
    write_checkpoint(folder, tiny_tokenizer, "en", "de", seed=9)
    before = service.metric('ferry_reloads_total{result="done"}')
    service.process.send_signal(signal.SIGHUP)
    until(lambda: service.metric('ferry_reloads_total{result="done"}') == before + 2)
    answers = {ask(service).json()["translations"][0]["text"] for _ in range(20)}
    assert len(answers) == 1 and old not in answers


def test_an_administrator_is_told_what_became_of_a_reload_in_all_of_them(
    service: ServiceProcess, folder: Path, tiny_tokenizer: TokenizerPair
) -> None:
    old = ask(service).json()["translations"][0]["text"]
    write_checkpoint(folder, tiny_tokenizer, "en", "de", seed=10)
    answer = reload(service)
    assert answer.json() == {"loaded": ["en-de"], "removed": [], "unchanged": [], "processes": 2}
    # No waiting: when the answer is there, all of them have done it.
    assert old not in {ask(service).json()["translations"][0]["text"] for _ in range(20)}
    assert reload(service).json() == {"loaded": [], "removed": [], "unchanged": ["en-de"], "processes": 2}
    (folder / "SHA256SUMS").write_text("")
    failed = reload(service)
    assert failed.status_code == 500 and "processes" not in failed.json()["detail"], "it failed alike in both"
    write_checkpoint(folder, tiny_tokenizer, "en", "de", seed=10)


def test_a_port_that_is_taken_is_an_error(service: ServiceProcess, folder: Path) -> None:
    port = service.url.rsplit(":", 1)[1]
    command = [FERRY, "serve", "--port", port, "--workers", "2", "--checkpoint", folder]
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert result.returncode == 1 and f"cannot listen on 127.0.0.1:{port}" in result.stderr


def test_sigterm_ends_all_of_them(service: ServiceProcess) -> None:
    there = workers(service)
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(PATIENCE_SECONDS) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in there)
