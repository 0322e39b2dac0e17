"""Ids to hypotheses, for every request in flight at once."""

from app.engine.engine import Engine
from app.engine.errors import (
    DeadlineError,
    EngineError,
    NotReadyError,
    QueueFullError,
    RequestTooLargeError,
    SegmentFailedError,
    UnknownModelError,
)
from app.engine.jobs import Outcome, SegmentJob, SegmentResult
from app.engine.observer import EngineObserver, SilentObserver, StepReport

__all__ = [
    "DeadlineError",
    "Engine",
    "EngineError",
    "EngineObserver",
    "NotReadyError",
    "Outcome",
    "QueueFullError",
    "RequestTooLargeError",
    "SegmentFailedError",
    "SegmentJob",
    "SegmentResult",
    "SilentObserver",
    "StepReport",
    "UnknownModelError",
]
