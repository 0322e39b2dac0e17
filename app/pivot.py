"""Through a third language: what one model translates into it, another translates from it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import NamedTuple

from app.engine import DeadlineError, Engine, Priority, ResultStream, SegmentFailedError, SegmentJob, SegmentResult
from app.passage import Passage
from app.served import Facts
from model.search import Hypothesis, SearchOptions

INLINE_SEGMENTS = 8  # decoding and encoding more of them would hold up the event loop; a thread does it


class Leg(NamedTuple):
    """One of the two models, and what is asked of it."""

    name: str  # in the engine
    facts: Facts
    options: SearchOptions


class Limits(NamedTuple):
    """Where segments are cut."""

    characters: int
    pieces: int


class PivotStream(AsyncIterator[tuple[int, SegmentResult]]):
    """As the engine's stream of one model: ``(job number, result)``, the jobs being the first model's, the results in
    pieces of the second.

    The second model begins when the first is done with every segment. The deadline holds for both together. A result
    is complete if both of its halves are; of a segment that one of them did not begin there is no hypothesis.
    """

    def __init__(
        self,
        engine: Engine,
        legs: tuple[Leg, Leg],
        jobs: Sequence[SegmentJob],
        deadline: float | None,
        limits: Limits,
        *,
        priority: Priority,
        partial: bool,
    ) -> None:
        """Raises what :meth:`app.engine.engine.Engine.stream` raises."""
        self._engine, self._legs, self._limits = engine, legs, limits
        self._deadline, self._priority, self._partial = deadline, priority, partial
        self._first = self._stream(legs[0], jobs)
        self._second: ResultStream | None = None
        self._results = self._run()

    @property
    def queue_seconds(self) -> float:
        """From arrival until the first model had its first segment."""
        return self._first.queue_seconds

    @property
    def compute_seconds(self) -> float:
        """The work of both, and the second one's queue."""
        second = self._second
        return self._first.compute_seconds + (second.queue_seconds + second.compute_seconds if second else 0.0)

    async def __anext__(self) -> tuple[int, SegmentResult]:
        return await anext(self._results)

    async def aclose(self) -> None:
        """Drop what is not translated yet."""
        await self._results.aclose()
        self._first.close()

    def _stream(self, leg: Leg, jobs: Sequence[SegmentJob]) -> ResultStream:
        return self._engine.stream(leg.name, jobs, self._deadline, priority=self._priority, partial=self._partial)

    async def _run(self) -> AsyncGenerator[tuple[int, SegmentResult]]:
        async with aclosing(self._first):
            halves = dict([answer async for answer in self._first])
        parts = (halves, self._legs, self._limits)
        handed = await asyncio.to_thread(hand_over, *parts) if len(halves) > INLINE_SEGMENTS else hand_over(*parts)
        for number in halves.keys() - set(handed.owners):
            yield number, _joined(halves[number], [])
        try:
            self._second = self._stream(self._legs[1], handed.jobs)
        except DeadlineError:
            if not self._partial:
                raise
            for number in set(handed.owners):
                yield number, _NOTHING
            return
        async with aclosing(self._second):
            async for answer in _gathered(self._second, handed.owners, halves):
                yield answer


class Handover(NamedTuple):
    """What the second model gets to do."""

    jobs: list[SegmentJob]
    owners: list[int]  # the first model's job that each comes from; several where its translation had to be cut


def hand_over(halves: Mapping[int, SegmentResult], legs: tuple[Leg, Leg], limits: Limits) -> Handover:
    """The second model's jobs for the results of the first, by job number. What is empty makes no job."""
    first, second = legs
    handed = Handover([], [])
    for number, half in halves.items():
        if half.hypotheses:
            text = first.facts.tokenizers.target.decode(half.hypotheses[0].pieces)
            passage = Passage.read(text, second.facts.config.source, second.facts.tokenizers.source, *limits)
            handed.jobs.extend(SegmentJob(tuple(pieces), second.options) for pieces in passage.pieces)
            handed.owners.extend([number] * len(passage.pieces))
    return handed


async def _gathered(
    stream: ResultStream, owners: Sequence[int], halves: Mapping[int, SegmentResult]
) -> AsyncGenerator[tuple[int, SegmentResult]]:
    """The results by the first model's jobs, each as soon as all of its parts are there."""
    missing: dict[int, dict[int, SegmentResult | None]] = {}
    for part, owner in enumerate(owners):
        missing.setdefault(owner, {})[part] = None
    try:
        async for part, result in stream:
            owner = owners[part]
            missing[owner][part] = result
            parts = [found for found in missing[owner].values() if found is not None]
            if len(parts) == len(missing[owner]):
                yield owner, _joined(halves[owner], parts)
    except SegmentFailedError as error:
        raise SegmentFailedError(owners[error.segment], error.reason) from error


_NOTHING = SegmentResult([], [], complete=False)


def _joined(half: SegmentResult, parts: Sequence[SegmentResult]) -> SegmentResult:
    """One result for the parts of a segment, in their order. Its score is that of the second model alone."""
    if not half.hypotheses or any(not part.hypotheses for part in parts):
        return _NOTHING
    best = [part.hypotheses[0] for part in parts]
    pieces = tuple(piece for hypothesis in best for piece in hypothesis.pieces)
    log_probability = sum(hypothesis.log_probability for hypothesis in best)
    score = sum(hypothesis.score for hypothesis in best) / max(1, len(best))
    complete = half.complete and all(part.complete for part in parts)
    return SegmentResult([Hypothesis(pieces, score, log_probability)], [], complete)
