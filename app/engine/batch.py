"""The sentences that one model translates together, joined and left between steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import structlog

from app.engine.jobs import SegmentJob, SegmentResult, Slot
from model.config import LengthLimit
from model.search import BeamSearch, Hypothesis, annotate
from model.seq2seq import Seq2Seq

log = structlog.get_logger(__name__)


class Budget(NamedTuple):
    """How much may be translated together."""

    tokens: int  # sentences times the longest source, end-of-sentence included
    rows: int  # sentences times the widest beam

    def share(self, count: int) -> Budget:
        """An equal share of the budget for one of ``count``."""
        return Budget(self.tokens // max(count, 1), self.rows // max(count, 1))


class Done(NamedTuple):
    """A sentence that leaves the batch, translated or failed."""

    slot: Slot
    result: SegmentResult | Exception


class RunningBatch:
    """A changing set of sentences in the search of one model.

    When the search fails, nobody knows whose fault it was: its sentences become suspects, which are tried one by one,
    each in a search of its own, while the batch goes on without them. Only one that fails alone has failed.
    """

    def __init__(self, name: str, model: Seq2Seq, length_limit: LengthLimit) -> None:
        self.name, self.model, self.length_limit = name, model, length_limit
        self._search = BeamSearch(model, length_limit)
        self._slots: dict[int, Slot] = {}  # by the search's ticket
        self._suspects: deque[Slot] = deque()
        self._trial: tuple[BeamSearch, Slot] | None = None

    @property
    def active(self) -> int:
        """Sentences under way, suspects included."""
        return len(self._slots) + len(self._suspects) + (self._trial is not None)

    @property
    def rows(self) -> int:
        """Rows of the decoder."""
        return self._search.rows + (self._trial[0].rows if self._trial else 0)

    @property
    def padded_tokens(self) -> int:
        """Source positions held in memory, padding included."""
        return self._search.padded_tokens + (self._trial[0].padded_tokens if self._trial else 0)

    @property
    def tokens(self) -> int:
        """Source positions held in memory, without padding."""
        return sum(slot.job.tokens for slot in self._slots.values()) + (self._trial[1].job.tokens if self._trial else 0)

    def room(self, budget: Budget) -> Room:
        """What may still join."""
        return Room(budget, [slot.job for slot in self._all()])

    def admit(self, slots: Sequence[Slot]) -> None:
        """Let sentences join."""
        try:
            tickets = self._search.admit([slot.job.pieces for slot in slots], [slot.job.options for slot in slots])
        except Exception as error:
            log.warning("admission failed", model=self.name, sentences=len(slots), error=repr(error))
            self._suspects.extend(slots)
            if self._search.active != len(self._slots):  # it failed halfway
                self._suspect_all()
        else:
            self._slots.update(zip(tickets, slots, strict=True))

    def step(self) -> list[Done]:
        """Take every sentence one step further; returns those that are done."""
        return [*self._step_batch(), *self._step_trial()]

    def discard_gone(self) -> None:
        """Free the rows of sentences that nobody waits for."""
        gone = [ticket for ticket, slot in self._slots.items() if slot.request.gone]
        if gone:
            try:
                self._search.cancel(gone)
            except Exception as error:
                log.warning("cancelling failed", model=self.name, error=repr(error))
                self._suspect_all()
        for ticket in gone:
            self._slots.pop(ticket, None)
        self._suspects = deque(slot for slot in self._suspects if not slot.request.gone)
        if self._trial and self._trial[1].request.gone:
            self._trial = None

    def _all(self) -> Iterable[Slot]:
        return [*self._slots.values(), *self._suspects, *([self._trial[1]] if self._trial else [])]

    def _step_batch(self) -> list[Done]:
        if not self._slots:
            return []
        try:
            finished = self._search.step()
        except Exception as error:
            log.warning("step failed", model=self.name, sentences=len(self._slots), error=repr(error))
            self._suspect_all()
            return []
        return [self._done(self._slots.pop(item.ticket), item.hypotheses) for item in finished]

    def _suspect_all(self) -> None:
        """Give up the search and everything in it; its sentences begin anew as suspects."""
        self._suspects.extend(self._slots.values())
        self._slots = {}
        self._search = BeamSearch(self.model, self.length_limit)

    def _step_trial(self) -> list[Done]:
        """Take the suspect that is being tried one step further."""
        if self._trial is None and not self._suspects:
            return []
        search, slot = self._trial or (BeamSearch(self.model, self.length_limit), self._suspects.popleft())
        try:
            if self._trial is None:
                search.admit([slot.job.pieces], [slot.job.options])
            finished = search.step()
        except Exception as error:
            log.exception("segment failed", model=self.name, pieces=len(slot.job.pieces))
            self._trial = None
            return [Done(slot, error)]
        self._trial = None if finished else (search, slot)
        return [self._done(slot, item.hypotheses) for item in finished]

    def _done(self, slot: Slot, hypotheses: list[Hypothesis]) -> Done:
        job = slot.job
        if not hypotheses:
            return Done(slot, ArithmeticError("the search ended without a translation: the scores are no numbers"))
        if not job.annotate:
            return Done(slot, SegmentResult(hypotheses, []))
        try:
            targets = [hypothesis.pieces for hypothesis in hypotheses]
            annotations = annotate(self.model, [job.pieces] * len(targets), targets)
        except Exception as error:
            log.exception("annotation failed", model=self.name, pieces=len(job.pieces))
            return Done(slot, error)
        return Done(slot, SegmentResult(hypotheses, annotations))


class Room:
    """The space that a batch has left, filled by one sentence after another."""

    def __init__(self, budget: Budget, jobs: Sequence[SegmentJob]) -> None:
        self._budget = budget
        self._sentences = len(jobs)
        self._longest = max((job.tokens for job in jobs), default=0)
        self._widest = max((job.options.beam_size for job in jobs), default=0)

    def admits(self, job: SegmentJob) -> bool:
        """Whether ``job`` may join; if so it takes its space. A sentence alone may always, whatever its size."""
        sentences = self._sentences + 1
        longest, widest = max(self._longest, job.tokens), max(self._widest, job.options.beam_size)
        fits = sentences * longest <= self._budget.tokens and sentences * widest <= self._budget.rows
        if self._sentences and not fits:
            return False
        self._sentences, self._longest, self._widest = sentences, longest, widest
        return True
