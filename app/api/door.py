"""The HTTP protocol of the server, which refuses under overload before a request costs anything."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import ClassVar, NamedTuple, cast

from starlette.types import Scope
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from app.api.handlers import problem_of
from app.api.middleware import SECURITY_HEADERS, record, request_id_of
from app.api.overload import Overload
from app.api.problems import QUEUE_FULL, respond
from app.engine import QueueFullError
from app.metrics import Metrics

ID = "the-id-of-the-request"  # stands for it where an answer is kept; JSON writes ids as they are


class Answer(NamedTuple):
    """That of a refusal, but for the request's id."""

    meaning: tuple[str, int]  # what it says: the error and the seconds after which to come again
    head: bytes  # status and headers, without the length
    body: tuple[bytes, bytes]  # before the id and after it

    @classmethod
    def to(cls, error: QueueFullError, meaning: tuple[str, int]) -> Answer:
        """What the long way answers."""
        response = respond(problem_of(error), ID)
        headers = [header for header in response.raw_headers if header[0] != b"content-length"]
        lines = [name + b": " + value + b"\r\n" for name, value in (*headers, *SECURITY_HEADERS)]
        before, _, after = bytes(response.body).partition(ID.encode())
        return cls(meaning, b"".join([STATUS_LINE[response.status_code], *lines]), (before, after))

    def written(self, request_id: bytes, more: Sequence[tuple[bytes, bytes]]) -> bytes:
        """For a request, with ``more`` headers."""
        before, after = self.body
        lines = [name + b": " + value + b"\r\n" for name, value in more]
        length = b"%d" % (len(before) + len(request_id) + len(after))
        identified = (b"content-length: ", length, b"\r\nx-request-id: ", request_id, b"\r\n\r\n")
        return b"".join([self.head, *lines, *identified, before, request_id, after])


class Door(HttpToolsProtocol):
    """Uvicorn's protocol; what an :class:`Overload` knows to be refused is answered when its headers have been read.

    It starts no task and goes through no middleware, and an answer serves for others while it says the same. The
    answer, the line in the log and the metrics are those of the long way. Requests that need more than that go that
    way: with a body that is too long or of unknown length, an Origin, or a connection that is to be closed or does not
    take what is written.
    """

    overload: ClassVar[Overload]
    metrics: ClassVar[Metrics]
    max_body_bytes: ClassVar[int]
    kept: ClassVar[Answer | None] = None  # the last

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        started, scope = time.monotonic(), cast(Scope, cycle.scope)
        error = self._refusal(cycle)
        if error is None:
            super()._start_asgi_task(cycle, app)
            return
        request_id = request_id_of(scope)
        self.transport.write(self._answer(error).written(request_id.encode(), cycle.default_headers))
        cycle.response_started = cycle.response_complete = True  # so that its body is passed over
        cycle.on_response()
        seconds = time.monotonic() - started
        record(self.metrics, self.overload.path, scope, QUEUE_FULL.status, seconds, request_id=request_id)

    @classmethod
    def _answer(cls, error: QueueFullError) -> Answer:
        meaning = (str(error), math.ceil(error.retry_after))
        if cls.kept is None or cls.kept.meaning != meaning:
            cls.kept = Answer.to(error, meaning)
        return cls.kept

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
