"""A request on its way through the engine."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

from app.engine.backlog import Left
from app.engine.errors import EngineError
from app.engine.jobs import Priority, SegmentJob, SegmentResult
from app.engine.models import Generation

Answer: TypeAlias = tuple[int, SegmentResult] | EngineError


class Request:
    """Jobs that were asked for together: made and read on the event loop, handed out and settled by the lanes.

    Some may be promised only, as tokens, and come later. All but the inbox changes under the queue's lock.
    """

    def __init__(
        self,
        model: Generation,
        jobs: Sequence[SegmentJob],
        loop: asyncio.AbstractEventLoop,
        *,
        waiting: Iterable[int] | None = None,
        promised: int = 0,
        priority: Priority = Priority.INTERACTIVE,
        cut_at: float | None = None,
    ) -> None:
        """``waiting`` numbers the jobs to be translated, all by default; at ``cut_at`` they leave with what they have.

        ``promised`` is about how many tokens of jobs come later. ``cut_at`` is a reading of ``time.monotonic()``; None
        lets them take their time.
        """
        self.model, self.jobs, self.priority, self.cut_at = model, list(jobs), priority, cut_at
        self.promised = promised
        self.inbox = Inbox(loop)
        self.gone = False  # nobody waits for it any more
        self.cut = False  # ``cut_at`` has passed
        self.arrived = time.monotonic()
        self.since = self.arrived  # when it arrived, or had its last turn
        self.overtaken = 0  # how often others went before the job that is next
        self.first_taken: float | None = None
        self.last_done: float | None = None
        self._waiting = deque(range(len(jobs)) if waiting is None else waiting)
        self.open = len(self._waiting)  # jobs that are not done
        self.outstanding = promised + sum(self.jobs[number].tokens for number in self._waiting)  # tokens, of these

    @property
    def left(self) -> Left:
        """What is to be done of it."""
        return Left(self.outstanding, (self.outstanding - self.promised) // self.open if self.open else 0)

    @property
    def waiting(self) -> int:
        """How many of its jobs have not been handed out."""
        return len(self._waiting)

    def peek(self) -> SegmentJob:
        """The job that is handed out next."""
        return self.jobs[self._waiting[0]]

    def extend(self, jobs: Sequence[SegmentJob], waiting: Iterable[int], kept: int) -> None:
        """Some of the jobs that were promised, in the place of ``kept`` tokens; ``waiting`` are those to be done."""
        self.jobs.extend(jobs)
        added = list(waiting)
        self._waiting.extend(added)
        self.open += len(added)
        self.promised -= kept
        self.outstanding += sum(self.jobs[number].tokens for number in added) - kept

    def take(self, now: float) -> Slot:
        """Hand out the next job."""
        self.first_taken = self.first_taken or now
        self.since, self.overtaken = now, 0
        return Slot(self, self._waiting.popleft())


class Slot(NamedTuple):
    """One job of a request."""

    request: Request
    number: int  # among the request's jobs, from 0

    @property
    def job(self) -> SegmentJob:
        return self.request.jobs[self.number]


class Inbox:
    """Answers that have reached the event loop, for one reader there."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._answers: deque[Answer] = deque()
        self._reader: asyncio.Future[None] | None = None

    def receive(self, answer: Answer) -> None:
        """Runs on the event loop."""
        self._answers.append(answer)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def next(self) -> Answer:
        """The oldest answer that was not read, as soon as there is one."""
        while not self._answers:
            self._reader = self.loop.create_future()
            await self._reader
        return self._answers.popleft()
