"""Ids to hypotheses, for every request in flight at once."""

from app.engine.engine import Engine
from app.engine.errors import (
    DeadlineError,
    EngineError,
    ModelFailedError,
    NotReadyError,
    QueueFullError,
    RequestTooLargeError,
    SegmentFailedError,
    UnknownModelError,
)
from app.engine.jobs import NOT_BEGUN, Outcome, Priority, SegmentJob, SegmentResult
from app.engine.observer import EngineObserver, SilentObserver, StepReport
from app.engine.stream import ResultStream

__all__ = [
    "NOT_BEGUN",
    "DeadlineError",
    "Engine",
    "EngineError",
    "EngineObserver",
    "ModelFailedError",
    "NotReadyError",
    "Outcome",
    "Priority",
    "QueueFullError",
    "RequestTooLargeError",
    "ResultStream",
    "SegmentFailedError",
    "SegmentJob",
    "SegmentResult",
    "SilentObserver",
    "StepReport",
    "UnknownModelError",
]
