"""Deadlines of those who take what there is."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from engine_harness import Clock, Gate, alone, job, loaded, long_job, running, until

from app.engine import DeadlineError, Engine, Outcome, SilentObserver

FAR = 3600.0  # seconds: no test waits for them, the clock is put forward


def partial(engine: Engine, *jobs: object) -> asyncio.Task[Outcome]:
    call = engine.translate("en-de", jobs, time.monotonic() + FAR, partial=True)  # type: ignore[arg-type]
    return asyncio.create_task(call)


def test_a_sentence_under_way_leaves_with_what_it_has(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    gate = Gate(checkpoint)

    async def late(engine: Engine) -> Outcome:
        clock = Clock(engine)
        task = partial(engine, long_job(5000))
        await until(lambda: gate.steps >= 3)
        clock.ahead = 2 * FAR
        outcome = await task
        assert engine.queued_tokens == 0
        await until(lambda: engine.active_sentences == 0)
        return outcome

    with running(checkpoint) as engine:
        gate.steps = 0
        (result,) = asyncio.run(late(engine)).results
    assert not result.complete
    assert result.hypotheses[0].pieces == (300,) * len(result.hypotheses[0].pieces)
    assert 3 <= len(result.hypotheses[0].pieces) < 5000


def test_a_sentence_cut_short_is_annotated_like_any_other(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    gate = Gate(checkpoint)

    async def late(engine: Engine) -> Outcome:
        clock = Clock(engine)
        task = partial(engine, long_job(5000)._replace(annotate=True))
        await until(lambda: gate.steps >= 3)
        clock.ahead = 2 * FAR
        return await task

    with running(checkpoint) as engine:
        gate.steps = 0
        (result,) = asyncio.run(late(engine)).results
    assert [len(note.log_probabilities) for note in result.annotations] == [len(result.hypotheses[0].pieces) + 1]


def test_a_sentence_that_was_not_begun_has_no_translation_and_says_so(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    gate = Gate(checkpoint)

    async def late(engine: Engine) -> Outcome:
        clock = Clock(engine)
        gate.close()
        task = partial(engine, long_job(5000, length=9), job(9))
        await until(lambda: engine.active_sentences == 1)
        clock.ahead = 2 * FAR
        gate.open()
        return await task

    with running(checkpoint, batch_tokens=10) as engine:
        begun, waiting = asyncio.run(late(engine)).results
    assert begun.hypotheses and not begun.complete
    assert waiting.hypotheses == [] and waiting.annotations == [] and not waiting.complete


def test_what_was_done_in_time_is_whole(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    gate = Gate(checkpoint)

    async def late(engine: Engine) -> Outcome:
        clock = Clock(engine)
        task = partial(engine, job(3, max_length=2), long_job(5000))
        await until(lambda: gate.steps >= 5)
        clock.ahead = 2 * FAR
        return await task

    with running(checkpoint) as engine:
        gate.steps = 0
        done, cut = asyncio.run(late(engine)).results
    assert done.complete and done.hypotheses[0].pieces == alone(checkpoint, job(3, max_length=2))[0].pieces
    assert not cut.complete


def test_the_deadline_of_one_does_not_cut_the_same_sentence_of_another(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    gate = Gate(checkpoint)
    shared = long_job(50)

    async def both(engine: Engine) -> tuple[Outcome, Outcome]:
        clock = Clock(engine)
        gate.close()
        hurried = partial(engine, shared)
        patient = asyncio.create_task(engine.translate("en-de", [shared], None))
        await until(lambda: engine.queued_tokens == 2 * shared.tokens)
        clock.ahead = 2 * FAR
        gate.open()
        return await hurried, await patient

    with running(checkpoint) as engine:
        hurried, patient = asyncio.run(both(engine))
        assert engine.queued_tokens == 0
    assert not hurried.results[0].complete
    assert patient.results[0].complete
    assert patient.results[0].hypotheses[0].pieces == alone(checkpoint, shared)[0].pieces


def test_partial_answers_are_given_up_where_the_engine_stands_still(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.engine.stream.GRACE_SECONDS", 0.05)
    checkpoint = loaded(tiny_checkpoint)
    gate = Gate(checkpoint)

    async def stand_still(engine: Engine) -> None:
        gate.close()
        with pytest.raises(DeadlineError):
            await engine.translate("en-de", [job(3)], time.monotonic() + 0.05, partial=True)
        assert engine.queued_tokens == 0
        gate.open()

    with running(checkpoint) as engine:
        asyncio.run(stand_still(engine))


def test_the_observer_hears_of_what_was_cut(tiny_checkpoint: Path) -> None:
    class Ear(SilentObserver):
        cut = 0

        def segments_cut(self, model: str, segments: int) -> None:
            self.cut += segments

    checkpoint = loaded(tiny_checkpoint)
    gate, ear = Gate(checkpoint), Ear()

    async def late(engine: Engine) -> None:
        clock = Clock(engine)
        gate.close()
        task = partial(engine, long_job(5000, length=9), job(9), job(8))
        await until(lambda: engine.active_sentences == 1)
        clock.ahead = 2 * FAR
        gate.open()
        await task

    with running(checkpoint, batch_tokens=10, observer=ear) as engine:
        asyncio.run(late(engine))
    assert ear.cut == 3
