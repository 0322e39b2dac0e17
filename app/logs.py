"""JSON logs on standard error, a line an event, with the request's id. Texts of users are never logged."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from typing import BinaryIO, cast

import structlog

_encode = json.JSONEncoder(default=repr).encode


def configure(level: str) -> None:
    """Send structlog's and the standard library's events through one JSON renderer.

    Ours go straight to the stream, which costs less than the way of the standard library: each request writes a line.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    handler = logging.StreamHandler(sys.stderr)
    last: list[structlog.typing.Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, _json]
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=last))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    structlog.configure(
        processors=[*shared, _bytes],
        wrapper_class=structlog.make_filtering_bound_logger(level.upper()),
        logger_factory=structlog.BytesLoggerFactory(cast(BinaryIO, _Unfailing())),
        cache_logger_on_first_use=True,
    )


class _Unfailing:
    """Standard error. Where it cannot be written, as on a full disk, lines are lost, but no request with them."""

    def write(self, line: bytes) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.buffer.write(line)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.buffer.flush()


def _json(_: object, __: str, event: structlog.typing.EventDict) -> str:
    return _encode(event)


def _bytes(_: object, __: str, event: structlog.typing.EventDict) -> bytes:
    return _encode(event).encode()
