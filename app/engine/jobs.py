"""What is asked of the engine and what it answers, and a request on its way through it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import NamedTuple

from app.engine.errors import EngineError
from model.search import Annotation, Hypothesis, SearchOptions


class SegmentJob(NamedTuple):
    """One segment to translate."""

    pieces: tuple[int, ...]  # source ids without begin- or end-of-sentence, at least one
    options: SearchOptions
    annotate: bool = False

    @property
    def tokens(self) -> int:
        """Source positions that the model sees, end-of-sentence included."""
        return len(self.pieces) + 1


class SegmentResult(NamedTuple):
    """The translations of one segment, best first."""

    hypotheses: list[Hypothesis]
    annotations: list[Annotation]  # one for each hypothesis if the job asked for them, else none


class Outcome(NamedTuple):
    """The answer to a request: a result for each of its jobs, in their order."""

    results: list[SegmentResult]
    queue_seconds: float  # from arrival until its first segment entered a batch
    compute_seconds: float  # from then until its last segment was done


class Request:
    """A request under way: made and awaited on the event loop, handed out and settled by the engine's thread."""

    def __init__(self, model: str, jobs: Sequence[SegmentJob], loop: asyncio.AbstractEventLoop) -> None:
        self.model, self.jobs = model, tuple(jobs)
        self.future: asyncio.Future[Outcome] = loop.create_future()
        self.gone = False  # nobody waits for it any more
        self.outstanding = sum(job.tokens for job in jobs)  # tokens of the jobs that are not done
        self._loop = loop
        self._arrived = time.monotonic()
        self._admitted: float | None = None
        self._taken = 0
        self._results: dict[int, SegmentResult] = {}

    @property
    def waiting(self) -> bool:
        """Whether some of its jobs have not been handed out."""
        return self._taken < len(self.jobs)

    def peek(self) -> SegmentJob:
        """The job that is handed out next."""
        return self.jobs[self._taken]

    def take(self) -> Slot:
        """Hand out the next job."""
        self._admitted = self._admitted or time.monotonic()
        self._taken += 1
        return Slot(self, self._taken - 1)

    def finish(self, number: int, result: SegmentResult) -> bool:
        """Note the result of one job. The last one answers the request, which is then complete."""
        self._results[number] = result
        if len(self._results) < len(self.jobs):
            return False
        admitted = self._admitted or self._arrived
        results = [self._results[place] for place in range(len(self.jobs))]
        self._settle(Outcome(results, admitted - self._arrived, time.monotonic() - admitted))
        return True

    def fail(self, error: EngineError) -> None:
        """Answer the request with an error, unless it is answered already."""
        self._settle(error)

    def _settle(self, answer: Outcome | EngineError) -> None:
        # A closed loop refuses the call; nobody can be waiting on it.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(_answer, self.future, answer)


class Slot(NamedTuple):
    """One job of a request, on its way through a batch."""

    request: Request
    number: int  # among the request's jobs, from 0

    @property
    def job(self) -> SegmentJob:
        return self.request.jobs[self.number]


def _answer(future: asyncio.Future[Outcome], answer: Outcome | EngineError) -> None:
    """Runs on the event loop; a future that is done was answered before or its task was cancelled."""
    if future.done():
        return
    if isinstance(answer, EngineError):
        future.set_exception(answer)
    else:
        future.set_result(answer)
