"""The HTTP protocol of the server, which refuses under overload before a request costs anything."""

from __future__ import annotations

import time
from typing import ClassVar, cast

from starlette.types import Scope
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from app.api.handlers import problem_of
from app.api.middleware import SECURITY_HEADERS, record, request_id_of
from app.api.overload import Overload
from app.api.problems import respond
from app.engine import QueueFullError
from app.metrics import Metrics


class Door(HttpToolsProtocol):
    """Uvicorn's protocol; what an :class:`Overload` knows to be refused is answered when its headers have been read.

    It starts no task and goes through no middleware. The answer, the line in the log and the metrics are the same.
    Requests that need more than that go the long way: with a body that is too long or of unknown length, an Origin, or
    a connection that is to be closed or does not take what is written.
    """

    overload: ClassVar[Overload]
    metrics: ClassVar[Metrics]
    max_body_bytes: ClassVar[int]

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        started, scope = time.monotonic(), cast(Scope, cycle.scope)
        error = self._refusal(cycle)
        if error is None:
            super()._start_asgi_task(cycle, app)
            return
        request_id = request_id_of(scope)
        answer = respond(problem_of(error), request_id)
        headers = [
            *cycle.default_headers,
            *answer.raw_headers,
            (b"x-request-id", request_id.encode()),
            *SECURITY_HEADERS,
        ]
        lines = [name + b": " + value + b"\r\n" for name, value in headers]
        self.transport.write(b"".join([STATUS_LINE[answer.status_code], *lines, b"\r\n", answer.body]))
        cycle.response_started = cycle.response_complete = True  # so that its body is passed over
        cycle.on_response()
        seconds = time.monotonic() - started
        record(self.metrics, self.overload.path, scope, answer.status_code, seconds, request_id=request_id)

    def _refusal(self, cycle: RequestResponseCycle) -> QueueFullError | None:
        scope = cycle.scope
        if scope["path"] != self.overload.path or scope["method"] != "POST":
            return None
        if not cycle.keep_alive or cycle.waiting_for_100_continue or self.flow.write_paused:
            return None
        length = None
        for name, value in scope["headers"]:
            if name == b"content-length":
                length = int(value)
            elif name == b"origin":
                return None
        return None if length is None or length > self.max_body_bytes else self.overload.refusal(length)


def door(overload: Overload, metrics: Metrics, max_body_bytes: int) -> type[Door]:
    """The protocol for a service, as uvicorn takes it."""
    return type("Door", (Door,), {"overload": overload, "metrics": metrics, "max_body_bytes": max_body_bytes})
