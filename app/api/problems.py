"""Problem documents (RFC 9457): the only form in which an error leaves the service."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import structlog
from pydantic import BaseModel, Field
from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"
SCHEMA = {"$ref": "#/components/schemas/Problem"}
SHOWN_CHARACTERS = 80


class Kind(NamedTuple):
    """A kind of problem: the end of its type URI, its status and its title. All three are promises to clients."""

    name: str
    status: int
    title: str
    example: str = ""  # a detail, for the documentation

    @property
    def type(self) -> str:
        return f"urn:ferry:problem:{self.name}"


MALFORMED_JSON = Kind(
    "malformed-json", 400, "The body is not JSON", "The body is not JSON: Expecting value at character 8."
)
UNAUTHORIZED = Kind(
    "unauthorized",
    401,
    "The token is missing or wrong",
    "Send the header Authorization: Bearer, with the token that FERRY_ADMIN_TOKEN sets.",
)
UNSUPPORTED_PAIR = Kind(
    "unsupported-pair",
    404,
    "No model for this language pair",
    "No model translates from en to it; the pairs there are: en-de.",
)
NO_SUCH_PATH = Kind("no-such-path", 404, "Nothing at this path")
METHOD_NOT_ALLOWED = Kind("method-not-allowed", 405, "The method does not fit the path")
NOT_ACCEPTABLE = Kind(
    "not-acceptable",
    406,
    "No media type of the answer is accepted",
    "The header Accept is image/png; let it take application/json, application/x-ndjson or text/event-stream.",
)
TOO_LARGE = Kind(
    "too-large",
    413,
    "The request is too large",
    "Text 0 has 1000000 characters; at most 20000 are allowed: cut it into parts.",
)
NOT_JSON = Kind(
    "not-json",
    415,
    "The body is not declared as JSON",
    "Send the header Content-Type: application/json; this request has text/plain.",
)
INVALID_REQUEST = Kind(
    "invalid-request",
    422,
    "A field is unknown or has a bad value",
    "beam_size: must be greater than or equal to 1, got 0",
)
QUEUE_FULL = Kind(
    "queue-full", 429, "The queue is full", "The queue of 65536 tokens has no room; try again in 1.3 seconds."
)
INTERNAL = Kind("internal", 500, "The service failed", "The service failed; its log says why under the request's id.")
RELOAD_FAILED = Kind(
    "reload-failed",
    500,
    "A checkpoint could not be loaded",
    "/checkpoints/en-fr/SHA256SUMS is missing. Loaded: en-de; the rest is served as before.",
)
NOT_READY = Kind(
    "not-ready", 503, "The service is not ready", "The service is shutting down; ask again in a few seconds."
)
DEADLINE = Kind(
    "deadline",
    504,
    "The deadline has passed",
    "The request was not translated within the 0.500 seconds it had; allow more time or send less text.",
)
DOCUMENTED = (
    MALFORMED_JSON, UNAUTHORIZED, UNSUPPORTED_PAIR, NOT_ACCEPTABLE, TOO_LARGE, NOT_JSON, INVALID_REQUEST, QUEUE_FULL,
    INTERNAL, NOT_READY, DEADLINE
)  # fmt: skip


class FieldError(BaseModel):
    """A field of the request that cannot be taken."""

    field: str = Field(examples=["beam_size"])
    message: str = Field(examples=["must be greater than or equal to 1, got 0"])


class Problem(BaseModel):
    """A problem document (RFC 9457). ``type`` is stable; the members after ``request_id`` belong to some types only."""

    type: str
    title: str
    status: int
    detail: str = Field(description="What is wrong, and what to do about it.")
    request_id: str | None = Field(None, description="As in the X-Request-ID header and in the service's log.")
    errors: list[FieldError] | None = Field(None, description="invalid-request: the fields concerned.")
    limit: int | None = Field(None, description="too-large, queue-full: the limit that was exceeded.")
    pairs: list[str] | None = Field(None, description="unsupported-pair: the pairs there are, as source-target.")


class ProblemError(Exception):
    """Raised anywhere below the API to answer with a problem document."""

    def __init__(
        self,
        kind: Kind,
        detail: str,
        *,
        errors: Sequence[FieldError] | None = None,
        limit: int | None = None,
        pairs: Sequence[str] | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind, self.detail, self.limit = kind, detail, limit
        self.errors, self.pairs = errors, pairs
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(max(1, math.ceil(retry_after)))


def respond(error: ProblemError, request_id: str | None = None) -> Response:
    """The response for a problem; ``request_id`` as in :func:`document`."""
    body = json.dumps(document(error, request_id).model_dump(exclude_none=True), ensure_ascii=False)
    return Response(body.encode("utf-8", "backslashreplace"), error.kind.status, error.headers, MEDIA_TYPE)


def document(error: ProblemError, request_id: str | None = None) -> Problem:
    """The document for a problem; without a ``request_id`` it has that which is bound in this context."""
    request_id = request_id or structlog.contextvars.get_contextvars().get("request_id")
    return Problem(
        type=error.kind.type,
        title=error.kind.title,
        status=error.kind.status,
        detail=error.detail,
        request_id=request_id,
        errors=None if error.errors is None else list(error.errors),
        limit=error.limit,
        pairs=None if error.pairs is None else list(error.pairs),
    )


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of an operation for the OpenAPI document."""
    return {
        kind.status: {"description": kind.title, "content": {MEDIA_TYPE: {"schema": SCHEMA, "example": _example(kind)}}}
        for kind in DOCUMENTED
        if kind.status in statuses
    }


def _example(kind: Kind) -> dict[str, str | int]:
    return {"type": kind.type, "title": kind.title, "status": kind.status, "detail": kind.example}


def show(text: str) -> str:
    """What a client sent, fit to be quoted: short, printable, without half surrogate pairs."""
    text = text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
    return text.encode("utf-8", "backslashreplace").decode()


def invalid(field: str, message: str) -> ProblemError:
    """The problem that one field has a bad value."""
    return ProblemError(INVALID_REQUEST, f"{field}: {message}", errors=[FieldError(field=field, message=message)])
