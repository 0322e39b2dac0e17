"""The engine at work: everything is answered, nothing is mixed up, nobody waits for long, nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import time
from pathlib import Path

import pytest
import torch
from engine_harness import Gate, Slowness, alone, job, loaded, long_job, long_jobs, mixed_jobs, running, until
from torch import Tensor

from app.engine import (
    DeadlineError,
    Engine,
    NotReadyError,
    Outcome,
    QueueFullError,
    RequestTooLargeError,
    SilentObserver,
    StepReport,
    UnknownModelError,
)
from app.engine.batch import STEPS_BETWEEN
from app.engine.request import Request
from model.decoder import Memory


def test_each_of_200_concurrent_requests_gets_the_translation_of_its_sentence_alone(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    jobs = mixed_jobs(200)

    async def all_at_once(engine: Engine) -> list[Outcome]:
        return await asyncio.gather(*(engine.translate("en-de", [item], None) for item in jobs))

    with running(checkpoint) as engine:
        outcomes = asyncio.run(all_at_once(engine))
    for item, outcome in zip(jobs, outcomes, strict=True):
        assert [found.pieces for found in outcome.results[0].hypotheses] == [
            expected.pieces for expected in alone(checkpoint, item)
        ]


def test_results_of_a_request_come_in_the_order_of_its_jobs(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    jobs = mixed_jobs(30)
    with running(checkpoint, batch_tokens=60) as engine:
        outcome = asyncio.run(engine.translate("en-de", jobs, None))
    assert [result.hypotheses[0].pieces for result in outcome.results] == [
        alone(checkpoint, item)[0].pieces for item in jobs
    ]


def test_those_who_come_after_one_another_join_together_a_few_steps_after_the_last(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    gate = Gate(checkpoint)
    joined = []  # how many, and after which step
    encode = checkpoint.model.encode

    def noted(source: Tensor, lengths: Tensor) -> Memory:
        joined.append((len(source), gate.steps))
        return encode(source, lengths)

    checkpoint.model.encode = noted  # type: ignore[method-assign]

    async def one_then_four(engine: Engine) -> None:
        gate.close()
        gate.steps = 0  # those of the measurement at the start do not count
        joined.clear()
        first, *others = (engine.translate("en-de", [segment], None) for segment in long_jobs(5))
        tasks = [asyncio.create_task(first)]
        await until(lambda: len(joined) == 1)
        tokens = engine.queued_tokens
        tasks += map(asyncio.create_task, others)
        await until(lambda: engine.queued_tokens == 5 * tokens)
        assert engine.wait_seconds > 0
        gate.open()
        await asyncio.gather(*tasks)
        assert engine.wait_seconds == 0

    with running(checkpoint) as engine:
        asyncio.run(one_then_four(engine))
    assert joined == [(1, 0), (4, STEPS_BETWEEN)]


def test_two_models_translate_at_the_same_time(tiny_checkpoint: Path, tiny_checkpoint_fr: Path) -> None:
    german, french = loaded(tiny_checkpoint), loaded(tiny_checkpoint_fr)
    gate = Gate(german)

    async def both(engine: Engine) -> tuple[Outcome, Outcome]:
        first = asyncio.create_task(engine.translate("en-de", long_jobs(50), None))
        await until(lambda: gate.steps > 0)
        second = await engine.translate("en-fr", [job(5)], None)
        assert not first.done()
        return await first, second

    with running(german, french, batch_tokens=64) as engine:
        gate.steps = 0
        _, second = asyncio.run(both(engine))
    assert second.results[0].hypotheses[0].pieces == alone(french, job(5))[0].pieces


def test_annotations_come_with_each_hypothesis_when_asked_for(tiny_checkpoint: Path) -> None:
    with running(loaded(tiny_checkpoint)) as engine:
        asked = job(6, annotate=True, n_best=2)
        result, plain = asyncio.run(engine.translate("en-de", [asked, job(6)], None)).results
    assert [len(note.log_probabilities) for note in result.annotations] == [
        len(hypothesis.pieces) + 1 for hypothesis in result.hypotheses
    ]
    assert {len(row) for note in result.annotations for row in note.attention} == {7}
    for hypothesis, note in zip(result.hypotheses, result.annotations, strict=True):
        assert sum(note.log_probabilities) == pytest.approx(hypothesis.log_probability, abs=1e-3)
    assert plain.annotations == []


def test_surplus_of_a_full_queue_is_refused_and_nothing_else_breaks(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    jobs = mixed_jobs(200)

    async def all_at_once(engine: Engine) -> list[Outcome | BaseException]:
        calls = (engine.translate("en-de", [item], None) for item in jobs)
        answers = await asyncio.gather(*calls, return_exceptions=True)
        await engine.translate("en-de", [job(3)], None)
        return answers

    with running(checkpoint, queue_tokens=500) as engine:
        answers = asyncio.run(all_at_once(engine))
        assert engine.queued_tokens == 0
    refused = [answer for answer in answers if isinstance(answer, QueueFullError)]
    assert refused and len(refused) < len(jobs)
    assert all(error.limit == 500 and 0 < error.retry_after < 60 for error in refused)
    for item, answer in zip(jobs, answers, strict=True):
        if not isinstance(answer, QueueFullError):
            assert isinstance(answer, Outcome)
            assert answer.results[0].hypotheses[0].pieces == alone(checkpoint, item)[0].pieces


def test_a_request_larger_than_the_empty_queue_is_refused_for_good(tiny_checkpoint: Path) -> None:
    with running(loaded(tiny_checkpoint), queue_tokens=50) as engine:
        with pytest.raises(RequestTooLargeError, match="60 tokens and the queue takes 50") as caught:
            asyncio.run(engine.translate("en-de", [job(9)] * 6, None))
        assert (caught.value.tokens, caught.value.limit) == (60, 50)
        asyncio.run(engine.translate("en-de", [job(9)] * 5, None))


def test_a_sentence_larger_than_the_batch_is_translated_alone(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    with running(checkpoint, batch_tokens=16, batch_rows=2) as engine:
        outcome = asyncio.run(engine.translate("en-de", [job(3), job(40), job(2)], None))
    assert outcome.results[1].hypotheses[0].pieces == alone(checkpoint, job(40))[0].pieces


def test_a_large_request_does_not_starve_a_small_one_behind_it(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    gate = Gate(checkpoint)

    async def large_then_small(engine: Engine) -> None:
        gate.close()
        large = asyncio.create_task(engine.translate("en-de", long_jobs(200, 5), None))
        await until(lambda: engine.active_sentences > 0)
        small = asyncio.create_task(engine.translate("en-de", [job(4)], None))
        await until(lambda: engine.queued_tokens == 201 * 5)
        gate.open()
        await small
        assert not large.done()
        assert engine.queued_tokens > 200 * 5 / 2
        await large

    with running(checkpoint, batch_tokens=20 * 5) as engine:
        asyncio.run(large_then_small(engine))


def test_sentences_join_a_batch_that_is_under_way(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    gate = Gate(checkpoint)

    async def join(engine: Engine) -> None:
        first = asyncio.create_task(engine.translate("en-de", [long_job(50)], None))
        await until(lambda: gate.steps > 0)
        await engine.translate("en-de", [long_job(2)], None)
        assert not first.done()
        await first

    with running(checkpoint) as engine:
        gate.steps = 0
        asyncio.run(join(engine))
    assert gate.steps < 50 + 5 + 5


def test_a_cancelled_request_gives_back_its_rows_while_decoding(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    gate = Gate(checkpoint)

    async def cancel(engine: Engine) -> None:
        gate.close()
        gate.steps = 0
        task = asyncio.create_task(engine.translate("en-de", long_jobs(3, 40), None))
        await until(lambda: engine.active_sentences == 3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert engine.queued_tokens == 0
        gate.open()
        await until(lambda: engine.active_sentences == 0)

    with running(checkpoint) as engine:
        asyncio.run(cancel(engine))
        assert gate.steps <= 2


def test_a_cancelled_request_leaves_the_queue_before_it_is_admitted(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    gate = Gate(checkpoint)
    encoded: list[int] = []
    encode = checkpoint.model.encode

    def counted(source: torch.Tensor, lengths: torch.Tensor) -> object:
        encoded.append(len(source))
        return encode(source, lengths)

    async def cancel(engine: Engine) -> None:
        gate.close()
        first = asyncio.create_task(engine.translate("en-de", [long_job()], None))
        await until(lambda: engine.active_sentences == 1)
        waiting = asyncio.create_task(engine.translate("en-de", [job(7)] * 3, None))
        await until(lambda: engine.queued_tokens == 5 + 24)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert engine.queued_tokens == 5
        gate.open()
        await first

    with running(checkpoint) as engine:
        checkpoint.model.encode = counted  # type: ignore[assignment, method-assign]
        asyncio.run(cancel(engine))
    assert encoded == [1]


def test_a_request_whose_deadline_passes_is_answered_and_frees_its_rows(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)

    async def late(engine: Engine) -> None:
        with pytest.raises(DeadlineError):
            await engine.translate("en-de", [long_job(200)], time.monotonic() + 0.1)
        assert engine.queued_tokens == 0
        await until(lambda: engine.active_sentences == 0)
        await engine.translate("en-de", [job(3)], time.monotonic() + 20)

    with running(checkpoint) as engine:
        Slowness(checkpoint, 0.01)
        asyncio.run(late(engine))


def test_a_deadline_in_the_past_is_refused_at_once(tiny_checkpoint: Path) -> None:
    with running(loaded(tiny_checkpoint)) as engine, pytest.raises(DeadlineError, match="had passed"):
        asyncio.run(engine.translate("en-de", [job(3)], time.monotonic() - 1))


def test_a_request_without_jobs_is_answered_without_work(tiny_checkpoint: Path) -> None:
    with running(loaded(tiny_checkpoint)) as engine:
        assert asyncio.run(engine.translate("en-de", [], None)) == Outcome([], 0.0, 0.0)


def test_an_unknown_model_is_named_with_those_there_are(tiny_checkpoint: Path) -> None:
    with running(loaded(tiny_checkpoint)) as engine, pytest.raises(UnknownModelError, match="'en-xx'; there are en-de"):
        asyncio.run(engine.translate("en-xx", [job(3)], None))


def test_requests_under_way_finish_while_it_drains_and_new_ones_are_refused(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    gate = Gate(checkpoint)

    async def drain(engine: Engine) -> Outcome:
        gate.close()
        task = asyncio.create_task(engine.translate("en-de", long_jobs(40), None))
        await until(lambda: engine.active_sentences > 0)
        stop = asyncio.create_task(asyncio.to_thread(engine.stop, 20.0))
        await until(lambda: not engine.ready)
        with pytest.raises(NotReadyError, match="stopping"):
            await engine.translate("en-de", [job(3)], None)
        gate.open()
        await stop
        return await task

    with running(checkpoint, batch_tokens=50) as engine:
        assert len(asyncio.run(drain(engine)).results) == 40


def test_what_is_not_done_when_the_drain_ends_fails_as_not_ready(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)

    async def drain(engine: Engine) -> None:
        task = asyncio.create_task(engine.translate("en-de", long_jobs(40, 200), None))
        await until(lambda: engine.active_sentences > 0)
        await asyncio.to_thread(engine.stop, 0.05)
        with pytest.raises(NotReadyError, match="stopped before"):
            await task

    with running(checkpoint, batch_tokens=50) as engine:
        Slowness(checkpoint, 0.01)
        asyncio.run(drain(engine))


def test_finished_requests_leave_nothing_behind(tiny_checkpoint: Path) -> None:
    async def many(engine: Engine) -> None:
        calls = [engine.translate("en-de", [item], None) for item in mixed_jobs(20)]
        calls += [engine.translate("en-de", [long_job()], time.monotonic() + 0.01) for _ in range(5)]
        await asyncio.gather(*calls, return_exceptions=True)
        await until(lambda: engine.active_sentences == 0)

    def requests() -> set[int]:
        gc.collect()
        return {id(item) for item in gc.get_objects() if type(item) is Request}

    before = requests()
    with running(loaded(tiny_checkpoint), queue_tokens=200) as engine:
        asyncio.run(many(engine))
        asyncio.run(until(lambda: requests() <= before))  # its thread may just be looking at the last of them


def test_the_observer_hears_of_steps_segments_and_the_queue(tiny_checkpoint: Path) -> None:
    class Ear(SilentObserver):
        def __init__(self) -> None:
            self.reports: list[StepReport] = []
            self.tokens: list[int] = []
            self.done: list[tuple[str, int, int]] = []
            self.threads = 0

        def queue_changed(self, tokens: int) -> None:
            self.tokens.append(tokens)

        def stepped(self, report: StepReport) -> None:
            self.reports.append(report)
            self.threads = torch.get_num_threads()

        def segment_done(self, model: str, source_tokens: int, target_tokens: int) -> None:
            self.done.append((model, source_tokens, target_tokens))

    ear = Ear()
    with running(loaded(tiny_checkpoint), observer=ear) as engine:
        jobs = [job(4), job(9, beam_size=2)]
        outcome = asyncio.run(engine.translate("en-de", jobs, None))
    first = ear.reports[0]
    assert (first.sentences, first.rows, first.tokens, first.padded_tokens) == (2, 10, 15, 20)
    assert first.padding_share == pytest.approx(0.25)
    assert 15 in ear.tokens
    lengths = [len(result.hypotheses[0].pieces) + 1 for result in outcome.results]
    assert sorted(ear.done) == [("en-de", 5, lengths[0]), ("en-de", 10, lengths[1])]
    assert ear.threads == 1
