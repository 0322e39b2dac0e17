"""The engine in trouble: who is at fault fails alone, and the loop goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch
from engine_harness import (
    Gate,
    alone,
    fail_encoding_of,
    fail_steps_with,
    job,
    loaded,
    long_job,
    long_jobs,
    mixed_jobs,
    running,
    until,
)
from torch import Tensor

from app.engine import (
    Engine,
    EngineError,
    NotReadyError,
    Outcome,
    SegmentFailedError,
    SegmentJob,
    SilentObserver,
    StepReport,
)
from model.checkpoint import Checkpoint
from model.decoder import Memory, State
from model.search import SearchOptions

POISON = 7
POISONED_JOB = SegmentJob((300, POISON, 301), SearchOptions(max_length=4))


async def together(engine: Engine, jobs: list[SegmentJob]) -> list[Outcome | BaseException]:
    calls = (engine.translate("en-de", [item], None) for item in jobs)
    return await asyncio.gather(*calls, return_exceptions=True)


def assert_only_one_failed(
    checkpoint: Checkpoint, jobs: list[SegmentJob], answers: list[Outcome | BaseException]
) -> None:
    """The fourth failed; every other answer is that of its sentence alone."""
    assert isinstance(answers[3], SegmentFailedError)
    assert "poison" in answers[3].reason
    for item, answer in zip(jobs[:3] + jobs[4:], answers[:3] + answers[4:], strict=True):
        assert isinstance(answer, Outcome)
        assert answer.results[0].hypotheses[0].pieces == alone(checkpoint, item)[0].pieces


def test_an_input_on_which_encoding_fails_does_not_take_its_neighbours_along(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    fail_encoding_of(checkpoint, POISON)
    jobs = [*mixed_jobs(3), POISONED_JOB, *mixed_jobs(6)]
    with running(checkpoint) as engine:
        assert_only_one_failed(checkpoint, jobs, asyncio.run(together(engine, jobs)))
        assert engine.queued_tokens == 0 and engine.ready


def test_an_input_on_which_a_step_fails_does_not_take_its_neighbours_along(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    fail_steps_with(checkpoint, length=29)
    jobs = [*mixed_jobs(3), job(29), *mixed_jobs(6)]
    with running(checkpoint) as engine:
        assert_only_one_failed(checkpoint, jobs, asyncio.run(together(engine, jobs)))
        assert engine.queued_tokens == 0 and engine.ready


def test_sentences_under_way_go_on_when_a_new_one_cannot_be_encoded(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    fail_encoding_of(checkpoint, POISON)
    gate = Gate(checkpoint)

    async def join(engine: Engine) -> None:
        first = asyncio.create_task(engine.translate("en-de", [long_job()], None))
        await until(lambda: gate.steps > 0)
        with pytest.raises(SegmentFailedError):
            await engine.translate("en-de", [POISONED_JOB], None)
        assert not first.done()
        await first

    with running(checkpoint) as engine:
        gate.steps = 0
        asyncio.run(join(engine))
    assert gate.steps <= 33


def test_a_step_that_fails_once_costs_nobody_an_answer(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    step, calls = checkpoint.model.step, 0

    def fails_once(state: State, token: Tensor, memory: Memory) -> tuple[Tensor, State]:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise MemoryError("for a moment")
        return step(state, token, memory)

    jobs = mixed_jobs(12)
    with running(checkpoint) as engine:
        checkpoint.model.step = fails_once  # type: ignore[method-assign]
        answers = asyncio.run(together(engine, jobs))
    for item, answer in zip(jobs, answers, strict=True):
        assert isinstance(answer, Outcome)
        assert answer.results[0].hypotheses[0].pieces == alone(checkpoint, item)[0].pieces


def test_a_request_with_a_poisonous_segment_fails_naming_it_and_its_others_are_dropped(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    fail_encoding_of(checkpoint, POISON)

    async def fail(engine: Engine) -> None:
        with pytest.raises(SegmentFailedError) as caught:
            await engine.translate("en-de", [job(3), POISONED_JOB, *long_jobs(20, 200)], None)
        assert caught.value.segment == 1
        await until(lambda: engine.active_sentences == 0)
        assert engine.queued_tokens == 0

    with running(checkpoint, batch_tokens=30) as engine:
        asyncio.run(fail(engine))


@pytest.mark.parametrize(
    "bad", [SegmentJob((), SearchOptions()), SegmentJob((99_999,), SearchOptions()), job(3, beam_size=2, n_best=3)]
)
def test_what_the_search_refuses_fails_alone(tiny_checkpoint: Path, bad: SegmentJob) -> None:
    with running(loaded(tiny_checkpoint)) as engine:
        good, refused = asyncio.run(together(engine, [job(3), bad]))
    assert isinstance(good, Outcome)
    assert isinstance(refused, SegmentFailedError) and "ValueError" in refused.reason


def test_a_failing_annotation_fails_alone(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)

    def fails(*_: Tensor) -> tuple[Tensor, Tensor]:
        raise RuntimeError("no attention")

    with running(checkpoint) as engine:
        checkpoint.model.attend = fails  # type: ignore[method-assign]
        plain, annotated = asyncio.run(together(engine, [job(3), job(3, annotate=True)]))
    assert isinstance(plain, Outcome)
    assert isinstance(annotated, SegmentFailedError)


def test_scores_that_are_no_numbers_fail_their_sentence_only(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    encode = checkpoint.model.encode

    def spoilt(source: Tensor, lengths: Tensor) -> Memory:
        memory = encode(source, lengths)
        bad = (source == POISON).any(dim=1).view(-1, 1, 1)
        return memory._replace(values=memory.values.masked_fill(bad, torch.nan))

    jobs = [*mixed_jobs(3), POISONED_JOB, *mixed_jobs(3)]
    with running(checkpoint) as engine:
        checkpoint.model.encode = spoilt  # type: ignore[method-assign]
        answers = asyncio.run(together(engine, jobs))
    assert isinstance(answers[3], SegmentFailedError)
    assert all(isinstance(answer, Outcome) for answer in answers[:3] + answers[4:])


def test_a_cancelled_suspect_is_dropped(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    gate = Gate(checkpoint)
    fail_steps_with(checkpoint, length=29)

    async def cancel(engine: Engine) -> None:
        tasks = [asyncio.create_task(engine.translate("en-de", [item], None)) for item in long_jobs(6, 50)]
        with pytest.raises(SegmentFailedError):
            await engine.translate("en-de", [job(29)], None)
        gate.close()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        gate.steps = 0
        gate.open()
        await until(lambda: engine.active_sentences == 0)
        assert gate.steps <= 2

    with running(checkpoint) as engine:
        asyncio.run(cancel(engine))


def test_the_loop_survives_an_error_of_its_own(tiny_checkpoint: Path) -> None:
    class Broken(SilentObserver):
        raised = False

        def stepped(self, report: StepReport) -> None:
            if not self.raised:
                self.raised = True
                raise ZeroDivisionError("in the observer")

    checkpoint = loaded(tiny_checkpoint)
    with running(checkpoint, observer=Broken()) as engine:
        with pytest.raises(EngineError, match="in the observer"):
            asyncio.run(engine.translate("en-de", [long_job()], None))
        outcome = asyncio.run(engine.translate("en-de", [job(4)], None))
        assert engine.ready
    assert outcome.results[0].hypotheses[0].pieces == alone(checkpoint, job(4))[0].pieces


def test_an_engine_that_was_not_started_takes_nothing(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    models = {"en-de": (checkpoint.model, checkpoint.config.length_limit)}
    engine = Engine(models, queue_tokens=100, batch_tokens=100, threads=1)
    assert not engine.ready
    with pytest.raises(NotReadyError, match="not been started"):
        asyncio.run(engine.translate("en-de", [job(3)], None))
    engine.stop(0.0)


def test_an_engine_whose_model_cannot_be_warmed_up_says_so(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    fail_encoding_of(checkpoint, checkpoint.config.model.source_vocabulary - 1)
    with pytest.raises(NotReadyError, match=r"could not be warmed up.*poison"), running(checkpoint):
        pass


def test_a_step_that_stands_still_is_not_ready_and_is_ready_when_it_moves_again(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    gate = Gate(checkpoint)

    async def stand_still(engine: Engine) -> None:
        gate.close()
        task = asyncio.create_task(engine.translate("en-de", [job(3)], None))
        await until(lambda: not engine.ready)
        with pytest.raises(NotReadyError, match="stood still"):
            await engine.translate("en-de", [job(3)], None)
        gate.open()
        await task
        await until(lambda: engine.ready)

    with running(checkpoint, heartbeat_seconds=1.0) as engine:
        asyncio.run(stand_still(engine))
