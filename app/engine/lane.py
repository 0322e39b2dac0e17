"""A thread that translates: turn after turn, whatever happens."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

import structlog
import torch

from app.engine.batch import Done, RunningBatch
from app.engine.budget import Allowance, Budget, Room
from app.engine.cache import ResultCache
from app.engine.delivery import Deliveries
from app.engine.errors import EngineError, SegmentFailedError
from app.engine.flights import Flight, Flights, Key, key_of
from app.engine.jobs import NOT_BEGUN, SegmentJob, SegmentResult
from app.engine.models import Generation
from app.engine.observer import EngineObserver, StepReport
from app.engine.queue import RequestQueue
from app.engine.rate import Speed
from app.engine.request import Slot

log = structlog.get_logger(__name__)

IDLE_SECONDS = 0.5  # between heartbeats while there is nothing to do
PAUSE_SECONDS = 0.005  # while the other lanes are to take what waits


class Common(NamedTuple):
    """What the lanes of an engine share."""

    queue: RequestQueue
    flights: Flights
    cache: ResultCache
    observer: EngineObserver
    ending: threading.Event  # set when the engine stops: lanes end once nothing is left
    ended: threading.Event  # set when the drain is over: lanes end at once


class Lane:
    """One of the threads that translate, with batches of its own.

    In a turn, each model with work drops what nobody waits for, lets go what is out of time, lets sentences join and
    takes a step; models with work share the budget equally. Answers reach the event loop once a turn.
    """

    def __init__(self, common: Common, budget: Budget, threads: int, tokens_per_second: float) -> None:
        """``threads`` are torch's, within an operation; ``tokens_per_second`` is what it can do, as far as known."""
        self._queue, self._flights, self._cache, self._observer = common[:4]
        self._ending, self._ended = common.ending, common.ended
        self._threads = threads
        self._allowance = Allowance(budget)
        self._batches: dict[Generation, RunningBatch] = {}
        self._own: set[Flight] = set()  # under way here
        self._deliveries = Deliveries()
        self.speed = Speed(tokens_per_second)
        self.beside: Sequence[Lane] = (self,)  # all lanes
        self.heartbeat = self._counted = time.monotonic()  # its time up to then is counted, or was idle

    @property
    def active(self) -> int:
        """Sentences in the batches."""
        return sum(batch.active for batch in list(self._batches.values()))

    @property
    def taken(self) -> int:
        """Sentences that it has taken on, also those about to join a batch."""
        return len(self._own)

    def run(self) -> None:
        """Work until the engine has stopped; no error ends it."""
        torch.set_num_threads(self._threads)  # of this thread only: OpenMP keeps the number for each by itself
        while not self._over():
            self.heartbeat = time.monotonic()
            try:
                self._observer.queue_changed(self._queue.tokens)
                self._turn()
            except Exception as error:
                log.exception("the engine met an error of its own")
                self._fail_own(EngineError(f"the engine met an error of its own: {error!r}"))
            finally:
                self._deliveries.send()

    def _over(self) -> bool:
        return self._ended.is_set() or (self._ending.is_set() and not self._queue.requests())

    def _turn(self) -> None:
        self._queue.drop_abandoned()
        for slot in self._queue.cut():
            self._answer(slot, NOT_BEGUN)
            self._observer.segments_cut(slot.request.model.name, 1)
        busy = self._busy()
        if not busy:
            self._queue.wait(IDLE_SECONDS)
        elif not any([self._advance(batch, len(busy)) for batch in busy]):
            self._queue.pause(PAUSE_SECONDS)
        else:
            return
        self._counted = time.monotonic()

    def _busy(self) -> list[RunningBatch]:
        """The batches with work; those of models that are gone are given up with the last of it."""
        for model in self._queue.waiting_models():
            if model not in self._batches:
                self._batches[model] = RunningBatch(model, self._allowance)
        for model, batch in list(self._batches.items()):
            if model.retired and not batch.active and not self._queue.waits(model):
                del self._batches[model]
        return [batch for model, batch in self._batches.items() if batch.active or self._queue.waits(model)]

    def _advance(self, batch: RunningBatch, share: int) -> bool:
        """Take a batch one step further; whether there was anything in it."""
        began = time.monotonic()
        batch.discard(self._gone)
        for item in batch.cut():
            self._settle(batch, item)
        full = self._admit(batch, share)
        if not batch.active:
            return False
        sentences, rows, tokens, padded = batch.active, batch.rows, batch.tokens, batch.padded_tokens
        done = batch.step()
        self.heartbeat = time.monotonic()
        finished = sum(self._settle(batch, item) for item in done)
        self._observer.stepped(StepReport(batch.model.name, self.heartbeat - began, sentences, rows, tokens, padded))
        # All of its time, not that of the steps alone: under load it also waits for Python's lock between them.
        before, self._counted = self._counted, time.monotonic()
        self.speed.note(finished, sentences * batch.stride, self._counted - before, full)
        return True

    def _admit(self, batch: RunningBatch, share: int) -> bool:
        """Let sentences join, if it is time; whether the batch is full."""
        if not batch.open:
            return batch.full
        room = batch.room(share)
        flights, all_back = batch.returning(room)
        if all_back:
            flights += self._take(batch.model, room)
        if flights:
            batch.admit(flights)
        batch.full = room.full
        return batch.full

    def _take(self, model: Generation, room: Room) -> list[Flight]:
        """New sentences that have room; of those that have none, the known and those under way are taken as well."""

        def admits(job: SegmentJob) -> bool:
            return room.admits(job) or self._known_or_under_way(key_of(model, job))

        flights: list[Flight] = []
        most = self._fair_share()
        while len(flights) < most and (slot := self._queue.take(model, admits)) is not None:
            if (flight := self._place(slot)) is not None:
                flights.append(flight)
        return flights

    def _known_or_under_way(self, key: Key) -> bool:
        return self._flights.has(key) or self._cache.get(key) is not None

    def _fair_share(self) -> float:
        """Sentences that this lane may take, so that the lanes have equally many."""
        if len(self.beside) == 1:
            return math.inf
        everything = self._queue.waiting_jobs + sum(lane.taken for lane in self.beside)
        return math.ceil(everything / len(self.beside)) - self.taken

    def _place(self, slot: Slot) -> Flight | None:
        """A flight to be translated here, unless the translation is known or under way already."""
        name = slot.request.model.name
        known = self._cache.get(key_of(slot.request.model, slot.job))
        if known is not None:
            self._answer(slot, known)
            self._observer.segment_shared(name)
            return None
        flight = self._flights.board(slot)
        if flight is None:
            self._observer.segment_shared(name)
            return None
        self._own.add(flight)
        return flight

    def _settle(self, batch: RunningBatch, done: Done) -> int:
        """Answer those who wait for a sentence; returns their source tokens."""
        flight, result = done
        if isinstance(result, Exception):
            slots = self._land(flight)
            self._fail(slots, result)
            self._observer.segment_failed(batch.model.name)
            return sum(slot.job.tokens for slot in slots)
        if not result.complete:
            return self._settle_cut(batch, flight, result)
        if not batch.model.retired:
            self._cache.put(flight.key, result)
        slots = self._land(flight)
        for slot in slots:
            self._answer(slot, result)
        self._observer.segment_done(batch.model.name, flight.job.tokens, len(result.hypotheses[0].pieces) + 1)
        return sum(slot.job.tokens for slot in slots)

    def _settle_cut(self, batch: RunningBatch, flight: Flight, result: SegmentResult) -> int:
        """Answer those who are out of time; for the others the sentence begins anew."""
        slots = self._flights.leave(flight, lambda slot: slot.request.cut)
        if flight.slots:
            batch.give_back(flight)
        else:
            self._own.discard(flight)
        for slot in slots:
            self._answer(slot, result)
        self._observer.segments_cut(batch.model.name, len(slots))
        return sum(slot.job.tokens for slot in slots)

    def _answer(self, slot: Slot, result: SegmentResult) -> None:
        self._queue.release(slot)
        self._deliveries.add(slot.request, (slot.number, result))

    def _fail(self, slots: Sequence[Slot], error: Exception) -> None:
        """The first segment that fails answers for its whole request."""
        for slot in slots:
            answer = error if isinstance(error, EngineError) else SegmentFailedError(slot.number, repr(error))
            self._deliveries.add(slot.request, answer)
            self._queue.drop(slot.request)

    def _land(self, flight: Flight) -> list[Slot]:
        self._own.discard(flight)
        return self._flights.leave(flight)

    def _gone(self, flight: Flight) -> bool:
        if not (flight.gone and self._flights.abandon(flight)):
            return False
        self._own.discard(flight)
        return True

    def _fail_own(self, error: EngineError) -> None:
        """Give up everything that is under way here."""
        self._batches = {}
        for flight in list(self._own):
            self._fail(self._land(flight), error)
