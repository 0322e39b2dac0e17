"""The engine in trouble: who is at fault fails alone, and the loop goes on."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
import torch
from engine_harness import (
    PATIENCE_SECONDS,
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


def test_an_engine_that_stands_still_for_long_is_given_up(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    gate, given_up = Gate(checkpoint), threading.Event()

    async def stand_still(engine: Engine) -> None:
        gate.close()
        task = asyncio.create_task(engine.translate("en-de", [job(3)], None))
        await until(given_up.is_set)
        gate.open()
        await task

    with running(checkpoint, stuck_seconds=0.2, on_stuck=given_up.set) as engine:
        asyncio.run(stand_still(engine))


def fail_beyond(checkpoint: Checkpoint, rows: int) -> list[int]:
    """Let memory hold only so many rows of the decoder; returns the rows of every step that went well."""
    step, held = checkpoint.model.step, []

    def limited(state: State, token: Tensor, memory: Memory) -> tuple[Tensor, State]:
        if len(token) > rows:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        held.append(len(token))
        return step(state, token, memory)

    checkpoint.model.step = limited  # type: ignore[method-assign]
    return held


def test_sentences_that_memory_does_not_hold_together_are_translated_fewer_at_a_time(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    jobs = mixed_jobs(40)
    with running(checkpoint) as engine:
        held = fail_beyond(checkpoint, rows=60)
        answers = asyncio.run(together(engine, list(jobs)))
        assert engine.ready and engine.queued_tokens == 0
    for item, answer in zip(jobs, answers, strict=True):
        assert isinstance(answer, Outcome)
        assert answer.results[0].hypotheses[0].pieces == alone(checkpoint, item)[0].pieces
    assert max(held) > 5  # not one by one


def test_sentences_that_cannot_be_encoded_together_are_encoded_fewer_at_a_time(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    encode = checkpoint.model.encode

    def limited(source: Tensor, lengths: Tensor) -> Memory:
        if len(source) > 5:
            raise MemoryError
        return encode(source, lengths)

    jobs = mixed_jobs(20)
    with running(checkpoint) as engine:
        checkpoint.model.encode = limited  # type: ignore[method-assign]
        answers = asyncio.run(together(engine, list(jobs)))
    assert all(isinstance(answer, Outcome) for answer in answers)


def test_a_sentence_that_memory_does_not_hold_even_alone_fails_and_the_others_do_not(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    step = checkpoint.model.step

    def limited(state: State, token: Tensor, memory: Memory) -> tuple[Tensor, State]:
        if memory.mask.shape[1] > 29:
            raise MemoryError("poison: too long")
        return step(state, token, memory)

    jobs = [*mixed_jobs(3), job(29), *mixed_jobs(6)]
    with running(checkpoint) as engine:
        checkpoint.model.step = limited  # type: ignore[method-assign]
        assert_only_one_failed(checkpoint, jobs, asyncio.run(together(engine, jobs)))
        assert engine.ready


def test_a_client_that_goes_while_its_sentence_is_encoded_leaves_nothing(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    encode = checkpoint.model.encode
    begun, go_on = threading.Event(), threading.Event()

    def held(source: Tensor, lengths: Tensor) -> Memory:
        begun.set()
        assert go_on.wait(PATIENCE_SECONDS)
        return encode(source, lengths)

    async def cancel(engine: Engine) -> None:
        task = asyncio.create_task(engine.translate("en-de", long_jobs(3, 200), None))
        await until(begun.is_set)
        task.cancel()
        await asyncio.wait([task])
        assert engine.queued_tokens == 0
        gate.steps = 0
        go_on.set()
        await until(lambda: engine.active_sentences == 0)
        assert gate.steps <= 2

    gate = Gate(checkpoint)
    with running(checkpoint) as engine:
        checkpoint.model.encode = held  # type: ignore[method-assign]
        asyncio.run(cancel(engine))


def test_one_of_many_suspects_is_found_by_halves(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    fail_steps_with(checkpoint, length=6)
    gate = Gate(checkpoint)
    others = [job(5, seed, max_length=3) for seed in range(31)]
    jobs = [*others[:3], job(6, max_length=3), *others[3:]]

    async def at_once(engine: Engine) -> list[Outcome | BaseException]:
        gate.close()
        first = asyncio.create_task(engine.translate("en-de", [job(2, max_length=1)], None))
        await until(lambda: engine.active_sentences == 1)
        rest = asyncio.create_task(together(engine, jobs))
        await until(lambda: engine.queued_tokens == 3 + 31 * 6 + 7)
        gate.open()
        await first
        return await rest

    with running(checkpoint) as engine:
        gate.steps = 0
        answers = asyncio.run(at_once(engine))
        steps = gate.steps
    assert_only_one_failed(checkpoint, jobs, answers)
    assert steps < 31 * 3  # what they would take one by one
