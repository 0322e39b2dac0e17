"""The engine: one thread that owns the models and translates the segments of all requests in flight together."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence

import structlog
import torch

from app.engine.batch import Budget, Done, RunningBatch
from app.engine.errors import DeadlineError, EngineError, NotReadyError, SegmentFailedError, UnknownModelError
from app.engine.jobs import Outcome, Request, SegmentJob
from app.engine.observer import EngineObserver, SilentObserver, StepReport
from app.engine.queue import RequestQueue
from app.engine.rate import Rate
from model.config import LengthLimit
from model.search import SearchOptions, translate
from model.seq2seq import Seq2Seq

log = structlog.get_logger(__name__)

IDLE_SECONDS = 0.5  # between heartbeats while there is nothing to do
JOIN_SECONDS = 60.0  # beyond the drain, for a step under way: a thread left inside torch would abort the process
WARM_UP_SENTENCES = 16
WARM_UP_PIECES = 8


class Engine:
    """Translates segments, given as ids, with continuous batching.

    The event loop calls :meth:`translate` and never touches torch; the thread translates and never touches a socket.
    Between two decoding steps the thread drops what nobody waits for and lets new sentences join, up to
    ``batch_tokens`` padded source tokens and ``batch_rows`` decoder rows; models with work share these equally.
    ``queue_tokens`` bounds the source tokens that wait or are under way. ``threads`` are torch's, within an operation.
    """

    def __init__(
        self,
        models: Mapping[str, tuple[Seq2Seq, LengthLimit]],
        *,
        queue_tokens: int,
        batch_tokens: int,
        threads: int,
        observer: EngineObserver | None = None,
        batch_rows: int = 640,
        heartbeat_seconds: float = 10.0,
    ) -> None:
        self._models = dict(models)
        self._queue = RequestQueue(queue_tokens, self._models)
        self._budget = Budget(batch_tokens, batch_rows)
        self._threads = threads
        self._observer = observer or SilentObserver()
        self._heartbeat_seconds = heartbeat_seconds
        self._rate = Rate()
        self._batches = self._fresh_batches()
        self._thread = threading.Thread(target=self._run, name="ferry-engine", daemon=True)
        self._started = False
        self._settled = threading.Event()  # warmed up, or failed to
        self._failure: str | None = None
        self._heartbeat = 0.0
        self._stop_at: float | None = None

    def start(self) -> None:
        """Start the thread, which warms up and then takes work; returns at once. An engine starts only once."""
        self._started = True
        self._heartbeat = time.monotonic()
        self._thread.start()

    def wait_until_ready(self, timeout: float) -> None:
        """Block until the engine takes work. Raises NotReadyError if it failed or ``timeout`` seconds have passed."""
        self._settled.wait(timeout)
        if self.obstacle is not None:
            raise NotReadyError(self.obstacle)

    @property
    def ready(self) -> bool:
        """Whether it is started, warmed up, not stopping, and its thread is alive."""
        return self.obstacle is None

    @property
    def obstacle(self) -> str | None:
        """Why it is not ready, in a sentence; None if it is."""
        silence = time.monotonic() - self._heartbeat
        if not self._started:
            return "the engine has not been started"
        if self._failure is not None:
            return self._failure
        if self._queue.closed:
            return "the engine is stopping"
        if not self._settled.is_set():
            return "the models are warming up"
        if not self._thread.is_alive() or silence > self._heartbeat_seconds:
            return f"the engine's thread has stood still for {silence:.0f} seconds"
        return None

    @property
    def queued_tokens(self) -> int:
        """Source tokens that wait or are under way."""
        return self._queue.tokens

    @property
    def active_sentences(self) -> int:
        """Sentences in the batches."""
        return sum(batch.active for batch in self._batches.values())

    @property
    def tokens_per_second(self) -> float:
        """Source tokens translated for each second of work, measured over the last seconds."""
        return self._rate.per_second

    async def translate(self, model_name: str, jobs: Sequence[SegmentJob], deadline: float | None) -> Outcome:
        """Translate ``jobs`` with one model; ``deadline`` is a reading of ``time.monotonic()``.

        Cancelling the task drops the jobs wherever they are. Raises UnknownModelError, NotReadyError,
        RequestTooLargeError, QueueFullError, DeadlineError, and SegmentFailedError for the first segment that failed.
        """
        if model_name not in self._models:
            raise UnknownModelError(model_name, tuple(self._models))
        if (obstacle := self.obstacle) is not None:
            raise NotReadyError(obstacle)
        if not jobs:
            return Outcome([], 0.0, 0.0)
        seconds = None if deadline is None else deadline - time.monotonic()
        if seconds is not None and seconds <= 0:
            raise DeadlineError("the deadline had passed when the request arrived")
        request = Request(model_name, jobs, asyncio.get_running_loop())
        try:
            self._queue.put(request, self._rate.per_second)
            async with asyncio.timeout(seconds):
                return await request.future
        except TimeoutError:
            raise DeadlineError(f"the request was not translated within the {seconds:.3f} seconds it had") from None
        finally:
            self._queue.drop(request)

    def stop(self, drain_seconds: float) -> None:
        """Refuse new requests, let those under way finish for ``drain_seconds``, fail the rest with NotReadyError.

        Blocks until the thread has ended; on an event loop, call it with ``asyncio.to_thread``.
        """
        self._stop_at = time.monotonic() + drain_seconds
        self._queue.close()
        if self._started:
            self._thread.join(drain_seconds + JOIN_SECONDS)
        self._fail_all(NotReadyError("the engine stopped before the request was translated"))

    def _run(self) -> None:
        """The thread: warm up, then turn after turn until stopped; no error ends it."""
        torch.set_num_threads(self._threads)
        try:
            self._warm_up()
        except Exception as error:
            log.exception("warm-up failed")
            self._failure = f"the models could not be warmed up: {error!r}"
            return
        finally:
            self._settled.set()
        while not self._over():
            self._heartbeat = time.monotonic()
            try:
                self._observer.queue_changed(self._queue.tokens)
                self._turn()
            except Exception as error:
                log.exception("the engine met an error of its own")
                self._batches = self._fresh_batches()
                self._fail_all(EngineError(f"the engine met an error of its own: {error!r}"))
        self._fail_all(NotReadyError("the engine stopped before the request was translated"))

    def _over(self) -> bool:
        if self._stop_at is None:
            return False
        return time.monotonic() >= self._stop_at or not self._queue.requests()

    def _turn(self) -> None:
        """Drop, admit and step once for every model that has work; wait if none has."""
        busy = [batch for batch in self._batches.values() if batch.active or self._queue.waits(batch.name)]
        if not busy:
            self._queue.wait(IDLE_SECONDS)
        for batch in busy:
            began = time.monotonic()
            batch.discard_gone()
            self._admit(batch, self._budget.share(len(busy)))
            if not batch.active:
                continue
            sentences, rows = batch.active, batch.rows
            tokens, padded_tokens = batch.tokens, batch.padded_tokens
            done = batch.step()
            self._heartbeat = time.monotonic()
            seconds = self._heartbeat - began
            self._rate.note(sum(item.slot.job.tokens for item in done), seconds)
            for item in done:
                self._settle(batch.name, item)
            self._observer.stepped(StepReport(batch.name, seconds, sentences, rows, tokens, padded_tokens))

    def _admit(self, batch: RunningBatch, budget: Budget) -> None:
        room = batch.room(budget)
        slots = []
        while (slot := self._queue.take(batch.name, room.admits)) is not None:
            slots.append(slot)
        if slots:
            batch.admit(slots)

    def _settle(self, model: str, done: Done) -> None:
        """Hand a sentence's result to its request; the first that fails answers for the whole request."""
        (request, number), result = done
        self._queue.release(done.slot)
        if isinstance(result, Exception):
            request.fail(SegmentFailedError(number, repr(result)))
            self._queue.drop(request)
            self._observer.segment_failed(model)
        else:
            if request.finish(number, result):
                self._queue.drop(request)
            self._observer.segment_done(model, done.slot.job.tokens, len(result.hypotheses[0].pieces) + 1)

    def _fail_all(self, error: EngineError) -> None:
        for request in self._queue.requests():
            request.fail(error)
            self._queue.drop(request)

    def _warm_up(self) -> None:
        """Translate with every model once to warm it, and once more to measure; that counts as a second of work."""
        options = SearchOptions(max_length=WARM_UP_PIECES)
        for model, length_limit in self._models.values():
            last = model.config.source_vocabulary - 1
            sources = [[last] * WARM_UP_PIECES] * WARM_UP_SENTENCES
            for _ in range(2):
                if self._queue.closed:
                    return
                began = time.monotonic()
                translate(model, sources, options, length_limit)
                self._heartbeat = time.monotonic()
            tokens = WARM_UP_SENTENCES * (WARM_UP_PIECES + 1)
            self._rate.note(tokens / (self._heartbeat - began), 1.0)

    def _fresh_batches(self) -> dict[str, RunningBatch]:
        return {name: RunningBatch(name, model, limit) for name, (model, limit) in self._models.items()}
