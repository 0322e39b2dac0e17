"""Through a third language: what one model translates into it, another translates from it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import NamedTuple

from app.engine import NOT_BEGUN, Engine, Priority, ResultStream, SegmentFailedError, SegmentJob, SegmentResult
from app.passage import Passage
from app.served import Facts
from model.search import Hypothesis, SearchOptions


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

    Each segment goes on to the second model as soon as the first is done with it. Both are admitted together, and the
    deadline holds for both. A result is complete if both of its halves are; of a segment that one of them did not begin
    there is no hypothesis.
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
        self._engine, self._legs, self._jobs, self._limits = engine, legs, jobs, limits
        names = (legs[0].name, legs[1].name)
        self._first, self._second = engine.relay(names, jobs, deadline, priority=priority, partial=partial)
        self._halves: dict[int, Half] = {}
        self._owners: list[int] = []  # the first model's job of each of the second's
        self._results = self._run()

    @property
    def queue_seconds(self) -> float:
        """From arrival until the first model had its first segment; the second's, if the first's were all known."""
        return self._first.queue_seconds or self._second.queue_seconds

    @property
    def compute_seconds(self) -> float:
        """From then until the last segment that was done."""
        ends = [stream.queue_seconds + stream.compute_seconds for stream in (self._first, self._second)]
        return max(ends) - self.queue_seconds

    async def __anext__(self) -> tuple[int, SegmentResult]:
        return await anext(self._results)

    async def aclose(self) -> None:
        """Drop what is not translated yet."""
        await self._results.aclose()
        self._first.close()
        self._second.close()

    async def _run(self) -> AsyncGenerator[tuple[int, SegmentResult]]:
        async with aclosing(self._answers()) as answers:
            async for stream, (number, result) in answers:
                owner = self._hand_over(number, result) if stream is self._first else self._arrive(number, result)
                half = self._halves[owner]
                if not half.missing:
                    del self._halves[owner]
                    yield owner, _joined(half)

    async def _answers(self) -> AsyncGenerator[tuple[ResultStream, tuple[int, SegmentResult]]]:
        """What both models give, as it comes, until neither has anything left; and with it, which of them it was."""
        reading: dict[asyncio.Task[tuple[int, SegmentResult]], ResultStream] = {}
        try:
            while True:
                for stream in (self._first, self._second):
                    if stream.left and stream not in reading.values():
                        reading[asyncio.create_task(self._next(stream))] = stream
                if not reading:
                    return
                done, _ = await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield reading[task], task.result()
                    del reading[task]
        finally:
            for task in reading:
                task.cancel()
            await asyncio.gather(*reading, return_exceptions=True)
            self._first.close()
            self._second.close()

    async def _next(self, stream: ResultStream) -> tuple[int, SegmentResult]:
        try:
            return await anext(stream)
        except SegmentFailedError as error:
            if stream is self._first:
                raise
            raise SegmentFailedError(self._owners[error.segment], error.reason) from error

    def _hand_over(self, number: int, result: SegmentResult) -> int:
        """The first model is done with a job; returns its number."""
        first, second = self._legs
        jobs: list[SegmentJob] = []
        if result.hypotheses:
            text = first.facts.tokenizers.target.decode(result.hypotheses[0].pieces)
            passage = Passage.read(text, second.facts.config.source, second.facts.tokenizers.source, *self._limits)
            jobs = [SegmentJob(tuple(pieces), second.options) for pieces in passage.pieces]
        parts = range(len(self._owners), len(self._owners) + len(jobs))
        self._halves[number] = Half(result, dict.fromkeys(parts))
        self._owners += [number] * len(jobs)
        self._engine.pass_on(self._second, jobs, instead_of=self._jobs[number])
        return number

    def _arrive(self, number: int, result: SegmentResult) -> int:
        """The second model is done with a job; returns the number of the first's that it belongs to."""
        owner = self._owners[number]
        self._halves[owner].parts[number] = result
        return owner


class Half(NamedTuple):
    """A segment that the first model is done with."""

    result: SegmentResult
    parts: dict[int, SegmentResult | None]  # of the second model: several where it had to be cut, none of what is empty

    @property
    def missing(self) -> bool:
        """Whether the second model is not done with every part."""
        return None in self.parts.values()


def _joined(half: Half) -> SegmentResult:
    """One result for the parts of a segment, in their order. Its score is that of the second model alone."""
    parts = [part for part in half.parts.values() if part is not None]
    if not half.result.hypotheses or any(not part.hypotheses for part in parts):
        return NOT_BEGUN
    best = [part.hypotheses[0] for part in parts]
    pieces = tuple(piece for hypothesis in best for piece in hypothesis.pieces)
    log_probability = sum(hypothesis.log_probability for hypothesis in best)
    score = sum(hypothesis.score for hypothesis in best) / max(1, len(best))
    complete = half.result.complete and all(part.complete for part in parts)
    return SegmentResult([Hypothesis(pieces, score, log_probability)], [], complete)
