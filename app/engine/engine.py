"""The engine: threads that own the models and translate the segments of all requests in flight together."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from app.engine.cache import ResultCache
from app.engine.calibration import warm_up
from app.engine.delivery import Deliveries
from app.engine.errors import DeadlineError, ModelFailedError, NotReadyError
from app.engine.flights import Flights, key_of
from app.engine.jobs import NOT_BEGUN, Outcome, Priority, SegmentJob, SegmentResult
from app.engine.lane import Common
from app.engine.lanes import Lanes
from app.engine.models import EngineModel, Generation, Models
from app.engine.observer import EngineObserver, SilentObserver
from app.engine.queue import RequestQueue
from app.engine.request import Request
from app.engine.stream import ResultStream
from app.engine.watchdog import exit_process
from model.config import LengthLimit
from model.seq2seq import Seq2Seq
from model.shortlist import Shortlist

SHORT_TOKENS = 16  # a sentence of a conversation
JOIN_SECONDS = 60.0  # beyond the drain, for a step under way: a thread left inside torch would abort the process


class Engine:
    """Translates segments, given as ids, with continuous batching.

    The event loop calls :meth:`stream` or :meth:`translate` and never touches torch; the lanes' threads translate and
    never touch a socket. Between two decoding steps a lane drops what nobody waits for and lets new sentences join, up
    to ``batch_tokens`` padded source tokens and ``batch_rows`` decoder rows; models with work share these equally.

    ``queue_tokens`` bounds the source tokens that wait or are under way, ``longest_wait_seconds`` the time that a
    request has to wait as far as can be told, ``cache_tokens`` the translations that are kept for sentences that come
    again. ``threads`` are the cores to use: by one lane with all of them, or by ``lanes`` lanes that share them.
    ``lanes`` and ``batch_rows`` are measured at the start where they are None. A lane that stands still for
    ``heartbeat_seconds`` makes the engine unready; after ``stuck_seconds`` ``on_stuck`` is called, which ends the
    process unless it is replaced.
    """

    def __init__(
        self,
        models: Mapping[str, EngineModel | tuple[Seq2Seq, LengthLimit]],
        *,
        queue_tokens: int,
        batch_tokens: int,
        threads: int,
        observer: EngineObserver | None = None,
        batch_rows: int | None = None,
        lanes: int | None = None,
        cache_tokens: int = 0,
        longest_wait_seconds: float | None = None,
        heartbeat_seconds: float = 10.0,
        stuck_seconds: float = 60.0,
        on_stuck: Callable[[], None] = exit_process,
    ) -> None:
        """Raises ValueError for more lanes than threads."""
        self._models = Models({name: EngineModel(*entry) for name, entry in models.items()})
        self._queue = RequestQueue(queue_tokens, longest_wait_seconds)
        self._cache = ResultCache(cache_tokens)
        self._observer = observer or SilentObserver()
        self._heartbeat_seconds = heartbeat_seconds
        self._lanes = Lanes(
            Common(self._queue, Flights(), self._cache, self._observer, threading.Event(), threading.Event()),
            self._models,
            threads=threads,
            lanes=lanes,
            batch_tokens=batch_tokens,
            batch_rows=batch_rows,
            stuck_seconds=stuck_seconds,
            on_stuck=on_stuck,
        )

    def start(self) -> None:
        """Start the threads, which warm up and then take work; returns at once. An engine starts only once."""
        self._lanes.start()

    def wait_until_ready(self, timeout: float) -> None:
        """Block until the engine takes work. Raises NotReadyError if it failed or ``timeout`` seconds have passed."""
        self._lanes.settled.wait(timeout)
        if self.obstacle is not None:
            raise NotReadyError(self.obstacle)

    @property
    def ready(self) -> bool:
        """Whether it is started, warmed up, not stopping, and its threads are alive."""
        return self.obstacle is None

    @property
    def obstacle(self) -> str | None:
        """Why it is not ready, in a sentence; None if it is."""
        lanes, silence = self._lanes, self._lanes.silence
        if not lanes.started:
            return "the engine has not been started"
        if lanes.failure is not None:
            return lanes.failure
        if self._queue.closed:
            return "the engine is stopping"
        if not lanes.settled.is_set():
            return "the models are warming up"
        if not lanes.alive or silence > self._heartbeat_seconds:
            return f"the engine's thread has stood still for {silence:.0f} seconds"
        return None

    @property
    def queued_tokens(self) -> int:
        """Source tokens that wait or are under way."""
        return self._queue.tokens

    @property
    def active_sentences(self) -> int:
        """Sentences in the batches."""
        return sum(lane.active for lane in self._lanes.each)

    @property
    def tokens_per_second(self) -> float:
        """Source tokens translated for each second of work, measured over the last seconds."""
        return self._lanes.tokens_per_second

    @property
    def wait_seconds(self) -> float:
        """How long a short sentence that came now would wait for others, about; 0 where nothing is under way."""
        ahead = self._queue.ahead(SHORT_TOKENS)
        return ahead / max(self._lanes.capacity, 1.0) if ahead else 0.0

    @property
    def lanes(self) -> int:
        """Threads that translate; 0 before the engine is ready."""
        return len(self._lanes.each)

    def stream(
        self,
        model_name: str,
        jobs: Sequence[SegmentJob],
        deadline: float | None,
        *,
        priority: Priority = Priority.INTERACTIVE,
        partial: bool = False,
    ) -> ResultStream:
        """Translate ``jobs`` with one model; an async iterator of ``(job number, result)`` in the order of their end.

        To be called on the event loop. ``deadline`` is a reading of ``time.monotonic()``; with ``partial`` the
        segments that are not done by then come with what there is of them, ``complete`` being false, else
        DeadlineError is raised. Cancelling the task that reads, or closing the iterator, drops the jobs wherever they
        are. Raises UnknownModelError, NotReadyError, RequestTooLargeError, QueueFullError and DeadlineError at once;
        while reading also NotReadyError, DeadlineError, and SegmentFailedError for the first segment that failed.
        """
        request = self._request(model_name, jobs, deadline, priority, partial)
        return self._enter([request], deadline)[0]

    def relay(
        self,
        model_names: tuple[str, str],
        jobs: Sequence[SegmentJob],
        deadline: float | None,
        *,
        priority: Priority = Priority.INTERACTIVE,
        partial: bool = False,
    ) -> tuple[ResultStream, ResultStream]:
        """Streams of two models, of which the second translates on what the first has translated.

        As :meth:`stream`, with one admission for both: the second is promised as many tokens as ``jobs`` have, and
        the caller gives it jobs in their place by :meth:`pass_on`, once for each result of the first.
        """
        first = self._request(model_names[0], jobs, deadline, priority, partial)
        promised = sum(job.tokens for job in jobs)
        second = self._request(model_names[1], (), deadline, priority, partial, promised=promised)
        first_stream, second_stream = self._enter([first, second], deadline)
        return first_stream, second_stream

    def pass_on(self, stream: ResultStream, jobs: Sequence[SegmentJob], instead_of: SegmentJob) -> None:
        """Give the second stream of a relay what came of one job of the first: any number of jobs, never refused."""
        request = stream.request
        start = len(request.jobs)
        known = self._known(request.model, jobs)
        waiting = [start + number for number in range(len(jobs)) if number not in known]
        taken = self._queue.extend(request, jobs, waiting, instead_of.tokens)
        answers = {start + number: result for number, result in known.items()}
        if not taken:
            answers |= dict.fromkeys(waiting, NOT_BEGUN)
        for answer in answers.items():
            request.inbox.receive(answer)

    async def translate(
        self,
        model_name: str,
        jobs: Sequence[SegmentJob],
        deadline: float | None,
        *,
        priority: Priority = Priority.INTERACTIVE,
        partial: bool = False,
    ) -> Outcome:
        """The same with all results at once, in the order of the jobs."""
        stream = self.stream(model_name, jobs, deadline, priority=priority, partial=partial)
        results = dict([answer async for answer in stream])
        return Outcome([results[number] for number in range(len(jobs))], stream.queue_seconds, stream.compute_seconds)

    def load(self, name: str, model: Seq2Seq, length_limit: LengthLimit, shortlist: Shortlist | None = None) -> None:
        """Take a model, instead of the one that had its name before; from any thread, while others are at work.

        Blocks until the model has translated once, on one core. What was asked for before is still translated by the
        model of before, whose memory is freed then. Raises ModelFailedError, having changed nothing.
        """
        loaded = EngineModel(model, length_limit, shortlist)
        try:
            _aside(lambda: warm_up(loaded))
        except Exception as error:
            raise ModelFailedError(name, repr(error)) from error
        old = self._models.replace(name, loaded)
        if old is not None:
            self._retire(old)

    def unload(self, name: str) -> None:
        """Give up a model; what was asked for before is still translated. Raises UnknownModelError."""
        self._retire(self._models.remove(name))

    def stop(self, drain_seconds: float) -> None:
        """Refuse new requests, let those under way finish for ``drain_seconds``, fail the rest with NotReadyError.

        Blocks until the threads have ended; on an event loop, call it with ``asyncio.to_thread``.
        """
        self._queue.close()
        self._lanes.end(drain_seconds, JOIN_SECONDS)
        deliveries = Deliveries()
        for request in self._queue.requests():
            deliveries.add(request, NotReadyError("the engine stopped before the request was translated"))
            self._queue.drop(request)
        deliveries.send()

    def _request(
        self,
        model_name: str,
        jobs: Sequence[SegmentJob],
        deadline: float | None,
        priority: Priority,
        partial: bool,
        promised: int = 0,
    ) -> Request:
        """A request, with the answers that are known."""
        model = self._models.find(model_name)
        if (obstacle := self.obstacle) is not None:
            raise NotReadyError(obstacle)
        if deadline is not None and deadline <= time.monotonic():
            raise DeadlineError("the deadline had passed when the request arrived")
        known = self._known(model, jobs)
        request = Request(
            model,
            jobs,
            asyncio.get_running_loop(),
            waiting=[number for number in range(len(jobs)) if number not in known],
            promised=promised,
            priority=priority,
            cut_at=deadline if partial else None,
        )
        for answer in known.items():
            request.inbox.receive(answer)
        return request

    def _enter(self, requests: Sequence[Request], deadline: float | None) -> list[ResultStream]:
        unanswered = [request for request in requests if request.outstanding]
        if unanswered:
            self._queue.put(unanswered[0], self._lanes.capacity, deadline, also=unanswered[1:])
        return [ResultStream(request, deadline, self._queue) for request in requests]

    def _known(self, model: Generation, jobs: Sequence[SegmentJob]) -> dict[int, SegmentResult]:
        """The results that the cache has, by job number."""
        if not self._cache.capacity:
            return {}
        found = ((number, self._cache.get(key_of(model, job))) for number, job in enumerate(jobs))
        known = {number: result for number, result in found if result is not None}
        self._observer.cache_looked_up(model.name, len(known), len(jobs) - len(known))
        return known

    def _retire(self, old: Generation) -> None:
        self._cache.forget(old.number)
        self._queue.wake()


def _aside(work: Callable[[], None]) -> None:
    """Run ``work`` on a thread of its own with one core: torch keeps the number of cores for each thread."""
    with ThreadPoolExecutor(1, thread_name_prefix="ferry-load") as pool:
        pool.submit(torch.set_num_threads, 1)
        pool.submit(work).result()
