"""The requests that are not answered: a bounded number of tokens, handed out fairly."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable

from app.engine.errors import NotReadyError, QueueFullError, RequestTooLargeError
from app.engine.jobs import Request, SegmentJob, Slot


class RequestQueue:
    """All requests from their arrival until they are answered or dropped.

    At most ``limit`` source tokens wait or are under way. Jobs are handed out one from each request in turn, requests
    in the order of their arrival, so that a large request does not hold up the small ones behind it. Each model has
    its own turn order, so a model that is busy holds up no other. Safe to use from any thread.
    """

    def __init__(self, limit: int, models: Iterable[str]) -> None:
        self.limit = limit
        self._changed = threading.Condition()
        self._turns: dict[str, deque[Request]] = {model: deque() for model in models}
        self._requests: set[Request] = set()
        self._tokens = 0
        self._closed = False

    @property
    def tokens(self) -> int:
        """Source tokens that wait or are under way."""
        return self._tokens

    @property
    def closed(self) -> bool:
        """Whether new requests are refused."""
        return self._closed

    def put(self, request: Request, tokens_per_second: float) -> None:
        """Add a request.

        Raises RequestTooLargeError if it can never fit, QueueFullError if it does not fit now; that error's
        ``retry_after`` is when, at ``tokens_per_second``, enough tokens will be done. NotReadyError once closed.
        """
        size = request.outstanding
        with self._changed:
            if self._closed:
                raise NotReadyError("the engine is stopping")
            if size > self.limit:
                raise RequestTooLargeError(size, self.limit)
            excess = self._tokens + size - self.limit
            if excess > 0:
                raise QueueFullError(excess / max(tokens_per_second, 1.0), self.limit)
            self._tokens += size
            self._requests.add(request)
            self._turns[request.model].append(request)
            self._changed.notify_all()

    def take(self, model: str, admits: Callable[[SegmentJob], bool]) -> Slot | None:
        """The next job in turn if ``admits`` has room for it; a job that has to wait is not overtaken."""
        with self._changed:
            turns = self._turns[model]
            if not turns or not admits(turns[0].peek()):
                return None
            request = turns.popleft()
            slot = request.take()
            if request.waiting:
                turns.append(request)
            return slot

    def waits(self, model: str) -> bool:
        """Whether a job for this model waits."""
        return bool(self._turns[model])

    def release(self, slot: Slot) -> None:
        """A job is done: its tokens make room."""
        with self._changed:
            if slot.request in self._requests:
                slot.request.outstanding -= slot.job.tokens
                self._tokens -= slot.job.tokens

    def drop(self, request: Request) -> None:
        """Forget a request, answered or not; what waits of it leaves now, what is under way is marked as gone."""
        with self._changed:
            request.gone = True
            if request not in self._requests:
                return
            self._requests.remove(request)
            self._tokens -= request.outstanding
            if request.waiting:
                self._turns[request.model].remove(request)

    def requests(self) -> list[Request]:
        """Every request that is not answered."""
        with self._changed:
            return list(self._requests)

    def wait(self, seconds: float) -> None:
        """Return when a job waits or :meth:`close` is called, after ``seconds`` at the latest."""
        with self._changed:
            if not any(self._turns.values()):
                self._changed.wait(seconds)

    def close(self) -> None:
        """Refuse new requests from now on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
