"""Every exception as a problem document: what is wrong with a request, and what the service cannot do now."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from app.api.problems import (
    DEADLINE,
    INTERNAL,
    INVALID_REQUEST,
    MALFORMED_JSON,
    METHOD_NOT_ALLOWED,
    NO_SUCH_PATH,
    NOT_JSON,
    NOT_READY,
    QUEUE_FULL,
    TOO_LARGE,
    UNSUPPORTED_PAIR,
    FieldError,
    Kind,
    ProblemError,
    invalid,
    respond,
    show,
)
from app.engine import DeadlineError, EngineError, NotReadyError, QueueFullError, RequestTooLargeError
from app.translator import (
    BadTextError,
    PivotOptionError,
    TextTooLargeError,
    TooManyTextsError,
    TranslationError,
    UnsupportedPairError,
)

SHOWN_FIELDS = 20
RETRY_SECONDS = 2.0  # until a service that warms up is worth asking again
# Names by which pydantic tells the members of a union apart; they are no part of a field's path.
UNION_TAGS = frozenset({"one text", "list of texts"})
# Where pydantic's own words would not help a client, by its type of error.
PLAIN_MESSAGES = {
    "missing": "is required",
    "too_short": "must hold at least one text",
    "string_unicode": "a field's name holds a lone surrogate, which is half a character; no field is called so",
    "model_type": "must be a JSON object",
    "model_attributes_type": "must be a JSON object",
}

logger = structlog.get_logger("app.requests")


def install(app: FastAPI, known_fields: Collection[str]) -> None:
    """Answer everything that goes wrong inside ``app`` with a problem document.

    ``known_fields`` are those of request bodies; for an unknown field the nearest of them is suggested.
    """

    async def problem_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, ProblemError)
        return respond(error)

    async def validation_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return respond(_from_validation(request, error, known_fields))

    async def http_exception(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return respond(_from_http(request, error))

    async def known_error(request: Request, error: Exception) -> Response:
        if isinstance(error, QueueFullError):
            request.state.queue_full = error  # see app.api.overload
        return respond(problem_of(error))

    app.add_exception_handler(ProblemError, problem_error)
    app.add_exception_handler(EngineError, known_error)
    app.add_exception_handler(TranslationError, known_error)
    app.add_exception_handler(RequestValidationError, validation_error)
    app.add_exception_handler(HTTPException, http_exception)


def problem_of(error: Exception) -> ProblemError:
    """The problem for an error that was raised while translating; one that nobody foresaw is logged."""
    if isinstance(error, (EngineError, TranslationError)):
        return _from_known(error)
    logger.error("failed", exc_info=error)
    return ProblemError(INTERNAL, INTERNAL.example)


def _from_validation(request: Request, error: RequestValidationError, known_fields: Collection[str]) -> ProblemError:
    details: Sequence[Mapping[str, Any]] = error.errors()
    first = details[0]
    if first["type"] == "json_invalid":
        position = first["loc"][-1]
        return ProblemError(MALFORMED_JSON, f"The body is not JSON: {first['ctx']['error']} at character {position}.")
    if first["loc"] == ("body",) and first["type"] == "missing":
        return ProblemError(MALFORMED_JSON, 'The body is empty; send a JSON object such as {"text": "Hello."}.')
    if first["loc"] == ("body",) and isinstance(first["input"], bytes):
        given = show(request.headers.get("content-type", "none"))
        return ProblemError(NOT_JSON, f"Send the header Content-Type: application/json; this request has {given}.")
    errors = [_field_error(detail, known_fields) for detail in details[:SHOWN_FIELDS]]
    return ProblemError(INVALID_REQUEST, "; ".join(f"{e.field}: {e.message}" for e in errors), errors=errors)


def _field_error(detail: Mapping[str, Any], known_fields: Collection[str]) -> FieldError:
    path = [part for part in detail["loc"][1:] if part not in UNION_TAGS]
    field = show("".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")) or "body"
    return FieldError(field=field, message=_message(detail, field, known_fields))


def _message(detail: Mapping[str, Any], field: str, known_fields: Collection[str]) -> str:
    kind = detail["type"]
    if kind in PLAIN_MESSAGES:
        return PLAIN_MESSAGES[kind]
    if kind == "extra_forbidden":
        return "is not a known field" + _nearest(field, known_fields)
    if kind == "value_error":  # a validator of ours, whose message is complete
        return str(detail["ctx"]["error"])
    return str(detail["msg"]).replace("Input should", "must") + _got(detail["input"])


def _nearest(field: str, known_fields: Collection[str]) -> str:
    nearest = difflib.get_close_matches(field, known_fields, n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _got(value: object) -> str:
    return f", got {show(json.dumps(value))}" if isinstance(value, (str, int, float, bool, type(None))) else ""


def _from_known(error: EngineError | TranslationError) -> ProblemError:
    """The problem for an error of the engine or the translator."""
    match error:
        case UnsupportedPairError(source=source, target=target):
            pairs = [str(pair) for pair in error.pairs]
            known = ", ".join(pairs)
            detail = f"No model translates from {show(source)} to {show(target)}; the pairs there are: {known}."
            return ProblemError(UNSUPPORTED_PAIR, detail, pairs=pairs)
        case TextTooLargeError() | TooManyTextsError() | RequestTooLargeError():
            return ProblemError(TOO_LARGE, _sentence(error), limit=error.limit)
        case PivotOptionError():
            return invalid(error.option, error.reason)
        case BadTextError():
            return invalid("text", error.reason)
        case QueueFullError():
            return ProblemError(QUEUE_FULL, _sentence(error), limit=error.limit, retry_after=error.retry_after)
        case NotReadyError():
            return ProblemError(NOT_READY, _sentence(error, "ask again in a few seconds"), retry_after=RETRY_SECONDS)
        case DeadlineError():
            return ProblemError(DEADLINE, _sentence(error, "allow more time or send less text"))
    logger.error("translation failed", reason=str(error))
    return ProblemError(INTERNAL, INTERNAL.example)


def _sentence(error: Exception, advice: str = "") -> str:
    """The message of one of our errors as a sentence, with what to do about it."""
    message = str(error) + (f"; {advice}" if advice else "")
    return message[:1].upper() + message[1:] + "."


def _from_http(request: Request, error: HTTPException) -> ProblemError:
    path = show(request.url.path)
    if error.status_code == 404:
        return ProblemError(NO_SUCH_PATH, f"There is nothing at {path}; /docs lists what there is.")
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        detail = f"{show(request.method)} does not work on {path}; use {allowed}."
        return ProblemError(METHOD_NOT_ALLOWED, detail, headers=error.headers)
    if error.status_code == 400:
        return ProblemError(MALFORMED_JSON, "The body is not JSON that can be read; send UTF-8, and nest less deeply.")
    return ProblemError(Kind("http", error.status_code, "The request failed"), show(str(error.detail)))
