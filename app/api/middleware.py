"""Around every request: its id, its line in the log, its metrics, security headers, and the limit on its body."""

from __future__ import annotations

import random
import re
import time

import structlog
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.disconnect import ClientGoneError
from app.api.problems import INTERNAL, TOO_LARGE, ProblemError, respond
from app.metrics import Metrics

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
CONTENT_SECURITY = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
SECURITY_HEADERS = (
    (b"content-security-policy", CONTENT_SECURITY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
CLIENT_GONE = 499  # nginx's status for a client that closed its connection; nobody reads it but the log

logger = structlog.get_logger("app.requests")


class RequestMiddleware:
    """Outermost: gives the request an id, logs and counts it, and makes a 500 problem of whatever was not foreseen."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = request_id_of(scope)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        started = time.monotonic()
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = list(message.get("headers", ()))
                names = {name for name, _ in given}
                more = [header for header in SECURITY_HEADERS if header[0] not in names]
                message["headers"] = [*given, (b"x-request-id", request_id.encode()), *more]
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except ClientGoneError:
            if not status:
                await Response(status_code=CLIENT_GONE)(scope, receive, send_with_headers)
            status = CLIENT_GONE
        except Exception:
            logger.exception("failed")
            if not status:
                await respond(_failed(request_id))(scope, receive, send_with_headers)
        finally:
            # A streamed answer that fails says so at its end, where its first status has long been sent.
            status = scope.get("state", {}).get("status", status)
            route = getattr(scope.get("route"), "path", "other")
            record(self.metrics, route, scope, status, time.monotonic() - started)


def record(metrics: Metrics, route: str, scope: Scope, status: int, seconds: float, **more: str) -> None:
    """Count a request and write its line in the log; ``route`` is its path's template."""
    metrics.request(route, status, seconds)
    log = logger.debug if route.startswith("/health") else logger.info
    milliseconds = round(seconds * 1000, 1)
    log("request", method=scope["method"], path=scope["path"], status=status, milliseconds=milliseconds, **more)


def request_id_of(scope: Scope) -> str:
    """The id that the client gave, or a new one, which need not be hard to guess."""
    sent = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    return sent.decode() if REQUEST_ID.fullmatch(sent) else f"{random.getrandbits(128):032x}"


def _failed(request_id: str) -> ProblemError:
    return ProblemError(INTERNAL, f"The service failed; its log says why under the request id {request_id}.")


class BodyLimitMiddleware:
    """Refuses a body beyond the limit with 413, counting as it streams in, so that no more than the limit is held.

    ``scope["state"]["body_bytes"]`` tells those within how long it is.

    What follows a body that is refused is read and dropped for a while: a client still writing would otherwise see a
    reset connection and not the answer.
    """

    DROPPED_BYTES = 64 * 1024 * 1024
    DROPPING_SECONDS = 5.0

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self.limit:
                del body
                await self._refuse(scope, receive, send, more)
                return
        scope.setdefault("state", {})["body_bytes"] = len(body)
        await self.app(scope, _replay(bytes(body), receive), send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, more: bool) -> None:
        dropped, until = 0, time.monotonic() + self.DROPPING_SECONDS
        while more and dropped < self.DROPPED_BYTES and time.monotonic() < until:
            message = await receive()
            dropped += len(message.get("body", b""))
            more = message.get("more_body", False)
        detail = f"The body is larger than the limit of {self.limit} bytes; send the texts in several requests."
        await respond(ProblemError(TOO_LARGE, detail, limit=self.limit))(scope, receive, send)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A receive that gives ``body`` once, and then what comes of the connection."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return first.pop() if first else await receive()

    return replay
