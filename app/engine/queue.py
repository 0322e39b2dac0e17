"""The requests that are not answered: a bounded amount of work, handed out fairly."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from app.engine.backlog import NOTHING, Backlog
from app.engine.errors import NotReadyError, QueueFullError, RequestTooLargeError
from app.engine.jobs import Priority, SegmentJob
from app.engine.models import Generation
from app.engine.request import Request, Slot
from app.engine.turns import Turns

REOPENED = 0.02  # of what waits must be done before those who are like one that was refused are looked at again


class RequestQueue:
    """All requests from their arrival until they are answered or dropped. Safe to use from any thread.

    At most ``limit`` source tokens wait or are under way, and no request is taken that would have to wait longer than
    ``longest_wait`` seconds or than its deadline. Each model has its own turns, so a model that is busy holds up no
    other.
    """

    def __init__(
        self, limit: int, longest_wait: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limit, self.longest_wait = limit, longest_wait
        self._clock = clock
        self._changed = threading.Condition()
        self._turns: dict[Generation, Turns] = {}
        self._requests: set[Request] = set()
        self._backlog = Backlog()
        self._cuts: list[tuple[float, int, Request]] = []  # a heap, by the time at which they are cut
        self._numbers = itertools.count()
        self._abandoned: deque[Request] = deque()
        self._waiting_jobs = 0
        self._closed = False

    @property
    def tokens(self) -> int:
        """Source tokens that wait or are under way."""
        return self._backlog.tokens

    def ahead(self, tokens: int) -> int:
        """Tokens that are done before an interactive request of ``tokens`` that came now would be, about."""
        return self._backlog.ahead(min(Priority), tokens) if self._backlog.tokens else 0

    @property
    def closed(self) -> bool:
        """Whether new requests are refused."""
        return self._closed

    def put(
        self,
        request: Request,
        tokens_per_second: float,
        deadline: float | None = None,
        *,
        also: Sequence[Request] = (),
    ) -> None:
        """Add a request, and ``also`` what was asked for together with it: all or nothing.

        Raises RequestTooLargeError if it can never fit, QueueFullError if there is too much to do before it at
        ``tokens_per_second`` (0 if not known), NotReadyError once closed.
        """
        with self._changed:
            if self._closed:
                raise NotReadyError("the engine is stopping")
            together = (request, *also)
            tokens = sum(item.outstanding for item in together)
            self._check_size(tokens, tokens_per_second)
            self._check_wait(request, tokens, tokens_per_second, deadline)
            for item in together:
                self._add(item)
            self._changed.notify_all()

    def extend(self, request: Request, jobs: Sequence[SegmentJob], waiting: Sequence[int], kept: int) -> bool:
        """Give a request some of the jobs that it was promised, in the place of ``kept`` tokens of the promise.

        They are never refused. ``waiting`` numbers those to be translated. Returns whether they will be: not if the
        request's time is over or nobody waits for it, and then none of them counts as waiting.
        """
        with self._changed:
            taken = request in self._requests and not request.cut
            before, waited = request.left, request.waiting
            request.extend(jobs, waiting if taken else (), kept)
            if request not in self._requests:
                return False
            self._backlog.change(request.priority, before, request.left)
            self._forget_if_done(request)
            if request.waiting > waited:
                self._line_up(request, waited)
                self._changed.notify_all()
            return taken

    def take(self, model: Generation, admits: Callable[[SegmentJob], bool]) -> Slot | None:
        """The job whose turn it is, of those that ``admits`` has room for."""
        with self._changed:
            turns = self._turns.get(model)
            request = turns.next(admits) if turns else None
            if turns is None or request is None:
                return None
            slot = request.take(self._clock())
            self._waiting_jobs -= 1
            if request.waiting:
                turns.add(request)
            self._forget_idle(model)
            return slot

    def cut(self) -> list[Slot]:
        """Mark the requests whose time is over; returns their jobs that were not handed out, which are now."""
        slots: list[Slot] = []
        with self._changed:
            now = self._clock()
            while self._cuts and self._cuts[0][0] <= now:
                request = heapq.heappop(self._cuts)[2]
                if request not in self._requests:
                    continue
                request.cut = True
                self._leave_turns(request)
                while request.waiting:
                    slots.append(request.take(now))
        return slots

    @property
    def waiting_jobs(self) -> int:
        """Jobs that were not handed out."""
        return self._waiting_jobs

    def waits(self, model: Generation) -> bool:
        """Whether a job for this model waits."""
        return model in self._turns

    def waiting_models(self) -> list[Generation]:
        """The models for which jobs wait."""
        with self._changed:
            return list(self._turns)

    def release(self, slot: Slot) -> None:
        """A job is done: its tokens make room. A request whose last job it was is forgotten."""
        with self._changed:
            request = slot.request
            if request not in self._requests:
                return
            before = request.left
            request.outstanding -= slot.job.tokens
            request.open -= 1
            request.last_done = self._clock()
            self._backlog.change(request.priority, before, request.left)
            self._forget_if_done(request)

    def drop(self, request: Request) -> None:
        """Forget a request, answered or not; what waits of it leaves now, what is under way is marked as gone."""
        with self._changed:
            request.gone = True
            if request not in self._requests:
                return
            self._forget(request)
            self._backlog.change(request.priority, request.left, NOTHING)
            self._leave_turns(request)

    def abandon(self, request: Request) -> None:
        """Have a request dropped soon. Takes no lock: it may be called while a thread is anywhere."""
        request.gone = True
        self._abandoned.append(request)

    def drop_abandoned(self) -> None:
        while self._abandoned:
            self.drop(self._abandoned.popleft())

    def requests(self) -> list[Request]:
        """Every request that is not answered."""
        with self._changed:
            return list(self._requests)

    def wait(self, seconds: float) -> None:
        """Return when a job waits or :meth:`wake` is called, after ``seconds`` at the latest."""
        with self._changed:
            if not self._turns:
                self._changed.wait(seconds)

    def pause(self, seconds: float) -> None:
        """The same for a lane that leaves the jobs that wait to others."""
        with self._changed:
            self._changed.wait(seconds)

    def wake(self) -> None:
        """Let every lane look around."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Refuse new requests from now on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _add(self, request: Request) -> None:
        request.since = self._clock()
        self._requests.add(request)
        self._backlog.change(request.priority, NOTHING, request.left)
        if request.waiting:
            self._line_up(request, 0)
        if request.cut_at is not None:
            heapq.heappush(self._cuts, (request.cut_at, next(self._numbers), request))

    def _line_up(self, request: Request, waited: int) -> None:
        """Give turns to a request of which only ``waited`` jobs were waiting before."""
        self._waiting_jobs += request.waiting - waited
        if not waited:
            request.since = self._clock()
            self._turns.setdefault(request.model, Turns()).add(request)

    def _forget_if_done(self, request: Request) -> None:
        if not request.open and not request.promised:
            self._forget(request)

    def _forget(self, request: Request) -> None:
        self._requests.remove(request)
        if len(self._cuts) > 2 * len(self._requests):  # mostly of requests that are done: they need not wait for that
            self._cuts = [entry for entry in self._cuts if entry[2] in self._requests]
            heapq.heapify(self._cuts)

    def _leave_turns(self, request: Request) -> None:
        if request.waiting:
            self._waiting_jobs -= request.waiting
            self._turns[request.model].remove(request)
            self._forget_idle(request.model)

    def _forget_idle(self, model: Generation) -> None:
        if not self._turns[model]:
            del self._turns[model]

    def _check_size(self, tokens: int, tokens_per_second: float) -> None:
        if tokens > self.limit:
            raise RequestTooLargeError(tokens, self.limit)
        excess = self.tokens + tokens - self.limit
        if excess > 0:
            obstacle = f"the queue of {self.limit} tokens has no room"
            seconds, whole = (number / max(tokens_per_second, 1.0) for number in (excess, self.tokens))
            raise QueueFullError(obstacle, seconds, self.limit, closed_seconds=max(seconds, REOPENED * whole))

    def _check_wait(self, request: Request, tokens: int, tokens_per_second: float, deadline: float | None) -> None:
        """An engine with nothing to do takes everything: how long that lasts is better tried than guessed."""
        ahead = self._backlog.ahead(request.priority, tokens)
        if not ahead or not tokens_per_second:
            return
        wait = ahead / tokens_per_second
        if self.longest_wait is not None and wait > self.longest_wait:
            obstacle = f"the wait would be about {wait:.1f} seconds and may be {self.longest_wait:g}"
            seconds, first = wait - self.longest_wait, request.priority == min(Priority)
            closed = max(seconds, REOPENED * wait) if first else 0.0  # another priority may have less to wait for
            raise QueueFullError(obstacle, seconds, self.limit, closed_seconds=closed)
        if deadline is None:
            return
        # Partial answers need no more than to be begun.
        needed = wait if request.cut_at is not None else wait + tokens / tokens_per_second
        left = deadline - self._clock()
        if needed > left:
            obstacle = f"it would take about {needed:.1f} seconds and the deadline is in {left:.1f}"
            raise QueueFullError(obstacle, needed - left, self.limit)
