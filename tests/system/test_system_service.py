"""The whole service as its users meet it: a process, a socket, many clients at once."""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from service_process import ServiceProcess, serving

from tests.system.faulty_service import FAULTY, GATE

WORDS = ("the", "river", "is", "wide", "and", "slow", "we", "cross", "water", "every", "morning", "she", "reads")
REQUESTS = 200
JSON = {"Content-Type": "application/json"}


def mixed_texts(count: int) -> list[str]:
    """``count`` different texts of 1 to 40 words, some of several sentences."""
    draw = random.Random(5)
    texts: list[str] = []
    while len(texts) < count:
        words = draw.choices(WORDS, k=draw.choice([1, 2, 3, 5, 8, 13, 40]))
        text = ". ".join(" ".join(words[start : start + 12]) for start in range(0, len(words), 12)) + "."
        if text not in texts:
            texts.append(text)
    return texts


TEXTS = mixed_texts(40)


@pytest.fixture(scope="module")
def service(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    folder = tmp_path_factory.mktemp("service")
    with serving(folder, "--checkpoint", tiny_checkpoint, "--cache-tokens", "0") as started:
        yield started


@pytest.fixture(scope="module")
def alone(service: ServiceProcess) -> dict[str, str]:
    """The translation of each text when the service has nothing else to do."""
    with httpx.Client(base_url=service.url, timeout=60) as client:
        return {text: translated(client.post("/v1/translate", json=asking(text))) for text in TEXTS}


def asking(text: str) -> dict[str, object]:
    return {"text": text, "source": "en", "target": "de", "beam_size": 3}


def translated(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    (translation,) = response.json()["translations"]
    return str(translation["text"])


async def ask_at_once(url: str, texts: Sequence[str]) -> list[httpx.Response]:
    """The answers to one request for each text, all of them sent before the first is answered."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        return await asyncio.gather(*(client.post("/v1/translate", json=asking(text)) for text in texts))


def many() -> list[str]:
    return random.Random(1).choices(TEXTS, k=REQUESTS)


def test_200_requests_at_once_each_get_what_the_text_gets_alone(service: ServiceProcess, alone: dict[str, str]) -> None:
    memory = service.metric("process_resident_memory_bytes")
    texts = many()
    responses = asyncio.run(ask_at_once(service.url, texts))
    assert [translated(response) for response in responses] == [alone[text] for text in texts]
    batches = service.metric('ferry_batch_sentences_count{model="en-de"}')
    small = service.metric('ferry_batch_sentences_bucket{le="8.0",model="en-de"}')
    assert batches > small, "requests in flight must have shared batches"
    assert service.metric("ferry_queue_tokens") == 0
    assert service.metric("process_resident_memory_bytes") < memory + 300e6


def test_a_client_that_hangs_up_frees_what_it_asked_for(service: ServiceProcess) -> None:
    body = httpx.Request("POST", service.url, json={**asking(". ".join(TEXTS)), "beam_size": 16}).content
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v1/translate HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(lambda: service.metric("ferry_queue_tokens") > 0)
    wait_until(lambda: service.metric("ferry_queue_tokens") == 0)
    wait_until(lambda: service.metric('ferry_requests_total{route="/v1/translate",status="499"}') == 1)


def test_a_stream_brings_segments_while_others_are_translated(tiny_checkpoint: Path, tmp_path: Path) -> None:
    # A few sentences at a time, so that the first comes long before the last, however fast the machine is.
    body = {**asking(". ".join(mixed_texts(250))[:19_000]), "beam_size": 16}
    headers = {"Accept": "application/x-ndjson"}
    with serving(tmp_path, "--checkpoint", tiny_checkpoint, "--batch-tokens", "64") as service:
        with httpx.stream("POST", f"{service.url}/v1/translate", json=body, headers=headers, timeout=60) as response:
            lines = response.iter_lines()  # the connection is closed with the last reference to it
            assert json.loads(next(lines))["event"] == "segment"
            assert service.metric("ferry_queue_tokens") > 0
        wait_until(lambda: service.metric("ferry_queue_tokens") == 0)
        wait_until(lambda: service.metric('ferry_requests_total{route="/v1/translate",status="499"}') == 1)


def test_bad_requests_between_good_ones_harm_nobody(service: ServiceProcess, alone: dict[str, str]) -> None:
    with httpx.Client(base_url=service.url, timeout=60) as client:
        for body, status in ((b'{"text": ', 400), (b"\xff", 400), (b"[]", 422), (b" " * 30_000_000, 413)):
            response = client.post("/v1/translate", content=body, headers=JSON)
            assert (response.status_code, response.headers["Content-Type"]) == (status, "application/problem+json")
            assert translated(client.post("/v1/translate", json=asking(TEXTS[0]))) == alone[TEXTS[0]]
    with socket.create_connection(("127.0.0.1", int(service.url.rsplit(":", 1)[1]))) as connection:
        connection.sendall(b"not HTTP at all\r\n\r\n")
        assert b"400" in connection.recv(100)


def test_the_log_is_json_and_holds_no_text_of_users(service: ServiceProcess, alone: dict[str, str]) -> None:
    with httpx.Client(base_url=service.url, timeout=60) as client:
        request = client.post("/v1/translate", json=asking("a river of secrets"), headers={"X-Request-ID": "find-me"})
    # The line is written when the answer is, and may come after it.
    wait_until(lambda: "find-me" in service.log_file.read_text())
    (entry,) = [line for line in service.log() if line.get("request_id") == "find-me"]
    assert (entry["path"], entry["status"], entry["level"]) == ("/v1/translate", request.status_code, "info")
    assert "secrets" not in service.log_file.read_text()


def test_an_idle_connection_is_closed_when_its_time_is_over(
    service: ServiceProcess, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with (
        serving(tmp_path, "--checkpoint", tiny_checkpoint, "--keep-alive-seconds", "1") as hasty,
        connected(service) as lasting,
        connected(hasty) as fleeting,
    ):
        assert fleeting.recv(1) == b"", "closed by the service"
        lasting.setblocking(False)
        with pytest.raises(BlockingIOError):
            lasting.recv(1)


@contextmanager
def connected(service: ServiceProcess) -> Iterator[socket.socket]:
    """A connection on which one request has been answered."""
    url = httpx.URL(service.url)
    with socket.create_connection((url.host, url.port), timeout=60) as connection:
        connection.sendall(f"GET /health/live HTTP/1.1\r\nHost: {url.host}\r\n\r\n".encode())
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert (answer.status, bool(answer.read())) == (200, True)
        yield connection


def test_what_the_queue_cannot_take_gets_429_and_the_rest_is_right(
    tiny_checkpoint: Path, alone: dict[str, str], tmp_path: Path
) -> None:
    with serving(tmp_path, "--checkpoint", tiny_checkpoint, "--queue-tokens", "600") as service:
        texts = many()
        responses = asyncio.run(ask_at_once(service.url, texts))
        refused = [response for response in responses if response.status_code == 429]
        assert 0 < len(refused) < REQUESTS
        for response in refused:
            assert int(response.headers["Retry-After"]) >= 1
            assert response.json()["type"] == "urn:ferry:problem:queue-full"
        for text, response in zip(texts, responses, strict=True):
            assert response.status_code == 429 or translated(response) == alone[text]
        assert translated(httpx.post(f"{service.url}/v1/translate", json=asking(TEXTS[0]))) == alone[TEXTS[0]]
        assert service.metric("ferry_queue_tokens") == 0


def test_sigterm_lets_requests_under_way_finish(
    tiny_checkpoint: Path, alone: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However fast the machine is, and however late this process gets the processor: what is under way stays so until
    # the late requests have been answered.
    gate = tmp_path / "gate"
    monkeypatch.setenv(GATE, str(gate))
    texts = many()

    async def drained(service: ServiceProcess) -> tuple[list[httpx.Response], list[httpx.Response]]:
        async with httpx.AsyncClient(base_url=service.url, timeout=120) as client:
            under_way = asyncio.create_task(ask_at_once(service.url, texts))
            while 'route="/v1/translate",status="200"' not in (await client.get("/metrics")).text:
                assert not under_way.done()
            gate.touch()
            while not gate.with_suffix(".reached").exists():
                await asyncio.sleep(0.01)
            service.process.send_signal(signal.SIGTERM)
            while (await client.get("/health/ready")).status_code == 200:
                await asyncio.sleep(0.01)
            late = [await client.post("/v1/translate", json=asking(TEXTS[0])), await client.get("/health/ready")]
            assert not under_way.done()
            gate.unlink()
            return await under_way, late

    # A few sentences at a time, so that most are still to be encoded when the first request is answered.
    flags = ("--checkpoint", tiny_checkpoint, "--drain-seconds", "120", "--batch-tokens", "64")
    with serving(tmp_path, *flags, ferry=FAULTY) as service:
        responses, late = asyncio.run(drained(service))
        assert service.process.wait(30) == 0
    assert [translated(response) for response in responses] == [alone[text] for text in texts]
    for response in late:
        assert response.status_code == 503 and "shutting down" in response.json()["detail"]
        assert int(response.headers["Retry-After"]) >= 1


def test_a_drain_that_takes_too_long_answers_what_is_left_with_503(tiny_checkpoint: Path, tmp_path: Path) -> None:
    async def cut_short(service: ServiceProcess) -> list[httpx.Response]:
        under_way = asyncio.create_task(ask_at_once(service.url, [". ".join(TEXTS)] * 30))
        while service.metric("ferry_queue_tokens") == 0:
            await asyncio.sleep(0.01)
        service.process.send_signal(signal.SIGTERM)
        return await under_way

    with serving(tmp_path, "--checkpoint", tiny_checkpoint, "--drain-seconds", "0.2") as service:
        responses = asyncio.run(cut_short(service))
        assert service.process.wait(30) == 0
    statuses = {response.status_code for response in responses}
    assert 503 in statuses and statuses <= {200, 503}


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)
