"""The sentences that one lane translates with one model, joined and left between steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import structlog

from app.engine.budget import Allowance, Room, is_out_of_memory, size
from app.engine.flight_search import FlightSearch, Landed
from app.engine.flights import Flight
from app.engine.jobs import NOT_BEGUN, SegmentResult
from app.engine.models import Generation
from model.search import annotate

log = structlog.get_logger(__name__)

STEPS_BETWEEN = 6  # admissions: each costs a pass of the encoder and moves all rows, however few join


class Done(NamedTuple):
    """A sentence that leaves the batch: translated, cut short or failed."""

    flight: Flight
    result: SegmentResult | Exception


class RunningBatch:
    """A changing set of sentences in the search of one model.

    When the search fails, nobody knows whose fault it was: its sentences become suspects, which are tried in a search
    of their own, half by half, while the batch goes on without them. Only one that fails alone has failed. Where
    memory ran out it was nobody's fault: they join again, fewer at a time.
    """

    def __init__(self, model: Generation, allowance: Allowance) -> None:
        self.model, self._allowance = model, allowance
        self._main = FlightSearch(model.loaded)
        self._trial = FlightSearch(model.loaded)
        self._suspects: deque[list[Flight]] = deque()  # groups, to be tried one after another
        self._returning: deque[Flight] = deque()  # join again before any others do
        self._steps = 0  # since the last admission
        self.stride = 0  # steps that the last call of :meth:`step` took
        self.full = False  # when last asked who may join: one was refused for want of space

    @property
    def active(self) -> int:
        """Sentences under way, those that are to be tried or to join again included."""
        return len(self._main) + len(self._trial) + sum(map(len, self._suspects)) + len(self._returning)

    @property
    def rows(self) -> int:
        """Rows of the decoder."""
        return self._main.rows + self._trial.rows

    @property
    def padded_tokens(self) -> int:
        """Source positions held in memory, padding included."""
        return self._main.padded_tokens + self._trial.padded_tokens

    @property
    def tokens(self) -> int:
        """The same without padding."""
        return self._main.tokens + self._trial.tokens

    @property
    def open(self) -> bool:
        """Whether sentences may join: at once where none is under way, else some steps after the last that joined."""
        return not self.active or self._steps >= STEPS_BETWEEN

    def room(self, share: int) -> Room:
        """What may still join in one of ``share`` shares of the budget."""
        jobs = [flight.job for flight in (*self._main.flights, *self._trial.flights)]
        return Room(self._allowance.budget.share(share), jobs)

    def returning(self, room: Room) -> tuple[list[Flight], bool]:
        """Sentences that join again now, and whether all do; while one has no place nobody else has."""
        flights = []
        while self._returning and room.admits(self._returning[0].job):
            flights.append(self._returning.popleft())
        return flights, not self._returning

    def give_back(self, flight: Flight) -> None:
        """Let a sentence that has left begin anew."""
        self._returning.append(flight)

    def admit(self, flights: Sequence[Flight]) -> None:
        """Let sentences join."""
        self._steps = 0
        try:
            self._main.admit(flights)
        except Exception as error:
            log.warning("admission failed", model=self.model.name, sentences=len(flights), error=repr(error))
            together = [*self._main.flights, *flights]
            self._set_aside(list(flights) if self._main.whole else self._empty_main(flights), together, error)

    def step(self) -> list[Done]:
        """Take every sentence a step further, or a few; returns those that are done."""
        before = self._main.steps
        done = [*self._step_main(), *self._step_trial()]
        self.stride = max(1, self._main.steps - before)  # a turn of another search counts as well
        self._steps += self.stride
        return done

    def cut(self) -> list[Done]:
        """Let those leave whose time is over, with the best they have."""
        landed: list[Landed] = []
        try:
            landed = self._main.interrupt(lambda flight: flight.cut)
        except Exception as error:
            log.warning("interrupting failed", model=self.model.name, error=repr(error))
            self._set_aside(self._empty_main(), (), error)
        try:
            landed += self._trial.interrupt(lambda flight: flight.cut)
        except Exception as error:
            log.warning("interrupting failed", model=self.model.name, error=repr(error))
            self._suspects.extend(_halves(self._empty_trial()))
        outside = [*self._returning, *(flight for group in self._suspects for flight in group)]
        late = [flight for flight in outside if flight.cut]
        self._keep_outside(lambda flight: not flight.cut)
        return [*map(self._done, landed), *(Done(flight, NOT_BEGUN) for flight in late)]

    def discard(self, gone: Callable[[Flight], bool]) -> None:
        """Free the rows of sentences that nobody waits for."""
        self._keep_outside(lambda flight: not gone(flight))
        try:
            self._main.cancel(gone)
        except Exception as error:
            log.warning("cancelling failed", model=self.model.name, error=repr(error))
            self._set_aside(self._empty_main(), (), error)
        try:
            self._trial.cancel(gone)
        except Exception as error:
            log.warning("cancelling failed", model=self.model.name, error=repr(error))
            self._suspects.extend(_halves(self._empty_trial()))

    def _step_main(self) -> list[Done]:
        if not len(self._main):
            return []
        try:
            landed = self._main.step()
        except Exception as error:
            log.warning("step failed", model=self.model.name, sentences=len(self._main), error=repr(error))
            flights = self._empty_main()
            self._set_aside(flights, flights, error)
            return []
        return [self._done(item) for item in landed]

    def _step_trial(self) -> list[Done]:
        """Take the suspects that are being tried one step further."""
        if not len(self._trial) and not self._suspects:
            return []
        group = self._trial.flights
        try:
            if not group:
                group = self._suspects.popleft()
                self._trial.admit(group)
            landed = self._trial.step()
        except Exception as error:
            return self._judge(group, error)
        return [self._done(item) for item in landed]

    def _judge(self, group: list[Flight], error: Exception) -> list[Done]:
        """Suspects failed together: one alone is found out, several are tried again in two halves."""
        self._trial = FlightSearch(self.model.loaded)
        if is_out_of_memory(error) and len(group) + len(self._main) > 1:
            self._set_aside(group, [*group, *self._main.flights], error)
            return []
        if len(group) > 1:
            self._suspects.extendleft(reversed(_halves(group)))
            return []
        log.error("segment failed", model=self.model.name, pieces=len(group[0].job.pieces), exc_info=error)
        return [Done(group[0], error)]

    def _set_aside(self, flights: list[Flight], together: Sequence[Flight], error: Exception) -> None:
        """Sentences have lost their search in an error that ``together`` met."""
        if is_out_of_memory(error) and len(together) > 1:
            self._allowance.halve(size([flight.job for flight in together]))
            self._returning.extend(flights)
        else:
            self._suspects.extend(_halves(flights))

    def _empty_main(self, others: Sequence[Flight] = ()) -> list[Flight]:
        """Give up the search; returns the sentences that were in it, and ``others``."""
        flights = [*self._main.flights, *others]
        self._main = FlightSearch(self.model.loaded)
        return flights

    def _empty_trial(self) -> list[Flight]:
        flights = self._trial.flights
        self._trial = FlightSearch(self.model.loaded)
        return flights

    def _keep_outside(self, kept: Callable[[Flight], bool]) -> None:
        """Forget the sentences in no search that are not kept."""
        self._returning = deque(flight for flight in self._returning if kept(flight))
        groups = ([flight for flight in group if kept(flight)] for group in self._suspects)
        self._suspects = deque(group for group in groups if group)

    def _done(self, landed: Landed) -> Done:
        flight, (_, hypotheses, complete) = landed
        job = flight.job
        if not hypotheses and complete:
            return Done(flight, ArithmeticError("the search ended without a translation: the scores are no numbers"))
        if not job.annotate or not hypotheses:
            return Done(flight, SegmentResult(hypotheses, [], complete))
        try:
            targets = [hypothesis.pieces for hypothesis in hypotheses]
            annotations = annotate(self.model.loaded.model, [job.pieces] * len(targets), targets)
        except Exception as error:
            log.exception("annotation failed", model=self.model.name, pieces=len(job.pieces))
            return Done(flight, error)
        return Done(flight, SegmentResult(hypotheses, annotations, complete))


def _halves(flights: Sequence[Flight]) -> list[list[Flight]]:
    """Two groups, or one of one."""
    middle = (len(flights) + 1) // 2
    return [list(group) for group in (flights[:middle], flights[middle:]) if group]
