"""The results of a request, read on the event loop as they come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from app.engine.errors import DeadlineError, EngineError
from app.engine.jobs import SegmentResult
from app.engine.queue import RequestQueue
from app.engine.request import Request

GRACE_SECONDS = 5.0  # for the step under way when a deadline passes, before those who want partial answers give up


class ResultStream(AsyncIterator[tuple[int, SegmentResult]]):
    """Gives ``(job number, result)`` for each job of a request, in the order in which they are done.

    Raises DeadlineError, NotReadyError or SegmentFailedError in the place of the next result, and then ends. Whoever
    stops reading before the end calls :meth:`close`, or lets go of it: what is left of the request is dropped.
    """

    def __init__(self, request: Request, deadline: float | None, queue: RequestQueue) -> None:
        self._closed = True  # until it is whole
        self.request, self._queue = request, queue
        self._read = 0
        self._timer: asyncio.TimerHandle | None = None
        if deadline is not None:
            seconds = deadline - request.arrived
            late = DeadlineError(f"the request was not translated within the {seconds:.3f} seconds it had")
            grace = 0.0 if request.cut_at is None else GRACE_SECONDS
            delay = max(0.0, deadline + grace - time.monotonic())
            self._timer = request.inbox.loop.call_later(delay, request.inbox.receive, late)
        self._closed = False

    @property
    def left(self) -> int:
        """Jobs whose results have not been read; not those that are only promised."""
        return len(self.request.jobs) - self._read

    @property
    def queue_seconds(self) -> float:
        """From the request's arrival until its first segment entered a batch; 0 if none had to."""
        taken = self.request.first_taken
        return 0.0 if taken is None else taken - self.request.arrived

    @property
    def compute_seconds(self) -> float:
        """From then until the last segment that was done."""
        taken, done = self.request.first_taken, self.request.last_done
        return 0.0 if taken is None or done is None else done - taken

    async def __anext__(self) -> tuple[int, SegmentResult]:
        if self._closed or not self.left:
            self.close()
            raise StopAsyncIteration
        try:
            answer = await self.request.inbox.next()
        except BaseException:  # its task was cancelled
            self.close()
            raise
        if isinstance(answer, EngineError):
            self.close()
            raise answer
        self._read += 1
        if not self.left and not self.request.promised:
            self.close()
        return answer

    def close(self) -> None:
        """Drop what is not translated yet."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._queue.drop(self.request)

    async def aclose(self) -> None:
        """The same, for ``contextlib.aclosing``."""
        self.close()

    def __del__(self) -> None:
        if not self._closed:
            self._queue.abandon(self.request)
