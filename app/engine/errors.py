"""What the engine answers when it cannot translate."""

from __future__ import annotations


class EngineError(Exception):
    """Base of all errors that :class:`app.engine.engine.Engine` raises."""


class UnknownModelError(EngineError):
    """No model of this name was given to the engine."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(f"there is no model {name!r}; there are {', '.join(known) or 'none'}")
        self.name, self.known = name, known


class ModelFailedError(EngineError):
    """A model that was to be loaded cannot translate; what was loaded before stays."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"the model {name!r} could not be warmed up: {reason}")
        self.name, self.reason = name, reason


class NotReadyError(EngineError):
    """The engine takes no work: not yet started or warmed up, stopping, or its thread stands still."""


class RequestTooLargeError(EngineError):
    """The request would not fit into the queue even if it were empty; trying again is of no use."""

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(f"the request has {tokens} tokens and the queue takes {limit}: split it into smaller requests")
        self.tokens, self.limit = tokens, limit


class QueueFullError(EngineError):
    """There is too much to do for the request to be taken now.

    ``retry_after`` is in seconds: at the rate measured lately, when it could be. ``limit`` is the queue's, in tokens.
    For ``closed_seconds`` no request of about as many tokens will be taken, whatever else it asks for; 0 if that is
    not known.
    """

    def __init__(self, obstacle: str, retry_after: float, limit: int, *, closed_seconds: float = 0.0) -> None:
        super().__init__(f"{obstacle}; try again in {max(retry_after, 0.1):.1f} seconds")
        self.obstacle, self.retry_after, self.limit = obstacle, retry_after, limit
        self.closed_seconds = closed_seconds


class DeadlineError(EngineError):
    """The deadline passed before the request was translated; its work was dropped."""


class SegmentFailedError(EngineError):
    """The model failed on one segment, even alone. ``segment`` counts the request's jobs from 0."""

    def __init__(self, segment: int, reason: str) -> None:
        super().__init__(f"segment {segment} could not be translated: {reason}")
        self.segment, self.reason = segment, reason
