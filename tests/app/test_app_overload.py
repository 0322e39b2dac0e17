"""What one request was refused for is told to those like it that come soon after, and to no others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from app.api.overload import LONGEST_SECONDS, Overload, OverloadMiddleware
from app.engine import QueueFullError

PATH = "/v1/translate"


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Full:
    """An application that refuses whatever reaches it, by ``error`` while there is one."""

    def __init__(self) -> None:
        self.error: QueueFullError | None = None
        self.reached = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.reached += 1
        if self.error is not None:
            scope["state"]["queue_full"] = self.error
        await send({"type": "http.response.start", "status": 200 if self.error is None else 429, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr("app.api.overload.time.monotonic", clock)
    yield clock


@pytest.fixture
def full() -> Full:
    return Full()


@pytest.fixture
def overload(full: Full) -> OverloadMiddleware:
    return OverloadMiddleware(full, Overload(PATH))


def ask(overload: OverloadMiddleware, body_bytes: int, path: str = PATH, method: str = "POST") -> list[Message]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("the body has been read")

    scope: dict[str, Any] = {"type": "http", "path": path, "method": method, "state": {"body_bytes": body_bytes}}
    asyncio.run(overload(scope, receive, send))
    return sent


def refusal(closed_seconds: float, retry_after: float = 0.1) -> QueueFullError:
    return QueueFullError("the wait would be too long", retry_after, 1000, closed_seconds=closed_seconds)


def test_those_that_come_after_a_refused_one_are_told_the_same_until_it_may_be_otherwise(
    overload: OverloadMiddleware, full: Full, clock: Clock
) -> None:
    full.error = refusal(0.2)
    assert ask(overload, 100)[0]["status"] == 429 and full.reached == 1
    clock.now += 0.15
    start, body = ask(overload, 100)
    assert start["status"] == 429 and full.reached == 1
    assert dict(start["headers"])[b"retry-after"] == b"1"
    problem = json.loads(body["body"])
    assert problem["type"] == "urn:ferry:problem:queue-full" and problem["limit"] == 1000
    assert problem["detail"].startswith("The wait would be too long; try again in 0.")
    clock.now += 0.06
    full.error = None
    assert ask(overload, 100)[0]["status"] == 200 and full.reached == 2


def test_the_time_to_come_again_is_that_which_is_left(overload: OverloadMiddleware, full: Full, clock: Clock) -> None:
    full.error = refusal(10.0, retry_after=10.0)
    ask(overload, 100)
    clock.now += 0.2
    start, body = ask(overload, 100)
    assert "try again in 9.8 seconds" in json.loads(body["body"])["detail"]
    assert dict(start["headers"])[b"retry-after"] == b"10"


def test_the_queue_is_asked_again_soon_however_long_it_was_to_last(
    overload: OverloadMiddleware, full: Full, clock: Clock
) -> None:
    full.error = refusal(60.0, retry_after=60.0)
    ask(overload, 100)
    clock.now += LONGEST_SECONDS
    ask(overload, 100)
    assert full.reached == 2


def test_who_asks_for_less_is_not_refused_for_a_larger_one(
    overload: OverloadMiddleware, full: Full, clock: Clock
) -> None:
    full.error = refusal(0.2)
    ask(overload, 1000)
    full.error = None
    assert ask(overload, 100)[0]["status"] == 200
    assert [ask(overload, size)[0]["status"] for size in (511, 512, 5000)] == [200, 429, 429]


def test_a_refusal_that_holds_for_one_alone_is_told_to_no_other(
    overload: OverloadMiddleware, full: Full, clock: Clock
) -> None:
    full.error = refusal(0.0, retry_after=5.0)
    ask(overload, 100)
    ask(overload, 100)
    assert full.reached == 2


@pytest.mark.parametrize(("path", "method"), [("/v1/languages", "GET"), ("/metrics", "GET"), (PATH, "GET")])
def test_other_requests_pass(overload: OverloadMiddleware, full: Full, clock: Clock, path: str, method: str) -> None:
    full.error = refusal(0.2)
    ask(overload, 100)
    full.error = None
    assert ask(overload, 100, path, method)[0]["status"] == 200
