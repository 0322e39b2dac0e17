"""What one request was refused for, told to those that come soon after it, before any of their text is read."""

from __future__ import annotations

import time
from typing import NamedTuple

from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.handlers import problem_of
from app.api.problems import respond
from app.engine import QueueFullError

LONGEST_SECONDS = 0.25  # requests may be given up meanwhile, and then there is room before it was to be expected


class Overload:
    """The last refusal that holds for others too.

    Under overload a refusal must cost next to nothing, or those who are refused slow down those who are not. The queue
    says how long nobody who asks for about as much as a request will be taken. Until then, requests to the same path
    whose bodies are as long, to the next power of two, or longer, get the same answer.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._refusal: Refusal | None = None

    def remember(self, error: QueueFullError, body_bytes: int) -> None:
        """A request with a body so long was refused."""
        if error.closed_seconds:
            self._refusal = Refusal(error, body_bytes.bit_length(), time.monotonic())

    def refusal(self, body_bytes: int) -> QueueFullError | None:
        """That of a request with a body so long, or None: then the queue must be asked."""
        if self._refusal is None or body_bytes.bit_length() < self._refusal.body_bits:
            return None
        error, _, since = self._refusal
        passed = time.monotonic() - since
        if passed >= min(error.closed_seconds, LONGEST_SECONDS):
            self._refusal = None
            return None
        return QueueFullError(error.obstacle, max(error.retry_after, error.closed_seconds) - passed, error.limit)


class Refusal(NamedTuple):
    """That of a request."""

    error: QueueFullError
    body_bits: int  # the number of bits of its body's length
    since: float  # a reading of ``time.monotonic()``


class OverloadMiddleware:
    """Refuses what an :class:`Overload` knows to be refused, and tells it the others that are.

    To stand within :class:`app.api.middleware.BodyLimitMiddleware`. Where :class:`app.api.door.Door` can, it refuses
    before this.
    """

    def __init__(self, app: ASGIApp, overload: Overload) -> None:
        self.app, self.overload = app, overload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != self.overload.path or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        state = scope["state"]
        if (error := self.overload.refusal(state["body_bytes"])) is not None:
            scope["route"] = Route(self.overload.path)
            await respond(problem_of(error))(scope, receive, send)
            return
        await self.app(scope, receive, send)
        if (error := state.get("queue_full")) is not None:
            self.overload.remember(error, state["body_bytes"])


class Route(NamedTuple):
    """What the log and the metrics know a request by."""

    path: str
