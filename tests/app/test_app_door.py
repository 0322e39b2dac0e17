"""Refusals at the door: the same answer as by the long way, and the connection goes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import uvicorn
from fastapi import FastAPI
from structlog.testing import capture_logs
from uvicorn.server import ServerState

from app.api import door as door_module
from app.api.door import Door, door
from app.engine import QueueFullError
from app.main import create_app
from app.settings import Settings

BODY = json.dumps({"text": "Where is the station?", "source": "en", "target": "de"}).encode()
HEADERS = {"Host": "ferry", "Content-Type": "application/json", "X-Request-ID": "r1"}


class Transport(asyncio.Transport):
    """A connection whose client has read everything."""

    def __init__(self) -> None:
        super().__init__({"sockname": ("127.0.0.1", 8000), "peername": ("127.0.0.1", 4000)})
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return False

    def close(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: Any


def message(body: bytes = BODY, version: str = "1.1", length: bool = True, **headers: str) -> bytes:
    """A request; underscores in the names of ``headers`` are hyphens."""
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    every = {**HEADERS, **({"Content-Length": str(len(body))} if length else {}), **more}
    lines = "".join(f"{name}: {value}\r\n" for name, value in every.items())
    return f"POST /v1/translate HTTP/{version}\r\n{lines}\r\n".encode() + body


def answers(written: bytes) -> list[Answer]:
    found = []
    while written:
        head, _, rest = written.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        length = int(headers.get("content-length", 0))  # 100 Continue has none
        found.append(Answer(int(status.split()[1]), headers, json.loads(rest[:length] or "null")))
        written = rest[length:]
    return found


@pytest.fixture(scope="module")
def app(tiny_checkpoint: Path) -> FastAPI:
    """A service that has not been started: what is not refused before finds that it is not ready."""
    return create_app(Settings(checkpoints=(tiny_checkpoint,), precision="float32", threads=1))


@pytest.fixture
def talk(app: FastAPI) -> Callable[..., list[Answer]]:
    """Sends packets on one connection, each once what came before is answered; returns the answers."""
    service = app.state.service
    protocol_class = door(app.state.overload, service.metrics, service.settings.max_body_bytes)
    config = uvicorn.Config(app, http=protocol_class, log_config=None, access_log=False, lifespan="off")
    config.load()

    async def run(packets: tuple[bytes, ...]) -> list[Answer]:
        transport = Transport()
        state = ServerState()
        protocol = protocol_class(config=config, server_state=state, app_state={})
        protocol.connection_made(transport)
        for packet in packets:
            protocol.data_received(packet)
            while state.tasks:
                await asyncio.sleep(0.001)
        assert protocol.timeout_keep_alive_task is not None  # a connection that is left alone ends
        protocol.timeout_keep_alive_task.cancel()
        return answers(transport.written)

    def sent(*packets: bytes) -> list[Answer]:
        error = QueueFullError("the wait would be too long", 9.64, 1000, closed_seconds=9.64)
        app.state.overload.remember(error, len(BODY))
        return asyncio.run(run(packets))

    return sent


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """As many as were refused at the door."""
    found: list[None] = []
    before = door_module.Door._refusal

    def counting(self: Door, cycle: Any) -> QueueFullError | None:
        error = before(self, cycle)
        if error is not None:
            found.append(None)
        return error

    monkeypatch.setattr(Door, "_refusal", counting)
    return found


def test_a_refusal_at_the_door_is_that_of_the_long_way(talk: Callable[..., list[Answer]], refused: list[None]) -> None:
    with capture_logs() as short_log:
        (short,) = talk(message())
    assert len(refused) == 1
    with capture_logs() as long_log:
        (long,) = talk(message(Origin="https://example.org"))
    assert len(refused) == 1
    assert short.status == long.status == 429
    assert short.headers == long.headers and short.headers["x-request-id"] == "r1"
    assert short.headers["retry-after"] == "10"
    assert short.body == long.body and short.body["request_id"] == "r1" and short.body["limit"] == 1000
    (line,), (other,) = short_log, long_log
    assert line.pop("request_id") == "r1"  # by the long way it is in the context
    assert {**line, "milliseconds": 0} == {**other, "milliseconds": 0}


def test_an_answer_that_is_kept_has_each_request_s_own_id(app: FastAPI, talk: Callable[..., list[Answer]]) -> None:
    first, second = talk(message(), message(X_Request_ID="another-id"))
    assert (first.headers["x-request-id"], first.body["request_id"]) == ("r1", "r1")
    assert (second.headers["x-request-id"], second.body["request_id"]) == ("another-id", "another-id")
    assert {**first.body, "request_id": ""} == {**second.body, "request_id": ""}


def test_an_answer_is_kept_for_what_says_the_same(app: FastAPI) -> None:
    service = door(app.state.overload, app.state.service.metrics, 1000)
    errors = [QueueFullError("the queue is full", seconds, 1000) for seconds in (2.04, 2.01, 2.14, 2.0)]
    first, same, longer, sooner = [service._answer(error) for error in errors]
    assert same is first
    details = [json.loads(each.written(b"r1", ()).partition(b"\r\n\r\n")[2])["detail"] for each in (first, longer)]
    assert ["2.0 seconds" in details[0], "2.1 seconds" in details[1]] == [True, True]
    assert b"retry-after: 3" in first.head and b"retry-after: 2" in sooner.head


def test_the_connection_goes_on_after_a_refusal(talk: Callable[..., list[Answer]], refused: list[None]) -> None:
    request = message()
    first, second, third = talk(request[:-10], request[-10:], request, message(b"{}"))
    assert (first.status, second.status, len(refused)) == (429, 429, 2)
    assert third.status == 422  # it asks for less, so it is looked at


def test_requests_in_one_packet_are_answered_in_turn(talk: Callable[..., list[Answer]], refused: list[None]) -> None:
    found = talk(message() + message(b"{}") + message())
    assert [answer.status for answer in found] == [429, 422, 429]


@pytest.mark.parametrize(
    "request_",
    [
        message(Origin="https://example.org"),
        message(Expect="100-continue"),
        message(b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY), length=False, Transfer_Encoding="chunked"),
    ],
)
def test_what_needs_more_goes_the_long_way(
    talk: Callable[..., list[Answer]], refused: list[None], request_: bytes
) -> None:
    assert [answer.status for answer in talk(request_)][-1] == 429
    assert not refused


def test_a_body_that_is_too_long_is_said_to_be(app: FastAPI, talk: Callable[..., list[Answer]]) -> None:
    (answer,) = talk(message(b" " * (app.state.service.settings.max_body_bytes + 1)))
    assert answer.status == 413
