"""Sentences that come again, and sentences that come at the same time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from engine_harness import (
    Clock,
    Counted,
    Gate,
    alone,
    fail_encoding_of,
    job,
    loaded,
    long_job,
    mixed_jobs,
    running,
    until,
)

from app.engine import Engine, Outcome, SegmentFailedError, SegmentJob, SilentObserver
from model.search import SearchOptions

CACHE_TOKENS = 100_000


class Ear(SilentObserver):
    def __init__(self) -> None:
        self.looked_up: list[tuple[int, int]] = []
        self.shared = 0

    def cache_looked_up(self, model: str, hits: int, misses: int) -> None:
        self.looked_up.append((hits, misses))

    def segment_shared(self, model: str) -> None:
        self.shared += 1


def test_a_sentence_that_comes_again_is_answered_without_the_model(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    counted, ear = Counted(checkpoint), Ear()

    async def twice(engine: Engine) -> tuple[Outcome, Outcome]:
        first = await engine.translate("en-de", [job(5)], None)
        counted.sentences = 0
        return first, await engine.translate("en-de", [job(5)], None)

    with running(checkpoint, cache_tokens=CACHE_TOKENS, observer=ear) as engine:
        first, second = asyncio.run(twice(engine))
    assert second.results == first.results
    assert counted.sentences == 0
    assert ear.looked_up == [(0, 1), (1, 0)]


def test_known_and_new_sentences_of_a_request_keep_their_places(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    jobs = mixed_jobs(20)

    async def some_first(engine: Engine) -> Outcome:
        await engine.translate("en-de", jobs[::3], None)
        return await engine.translate("en-de", jobs, None)

    with running(checkpoint, cache_tokens=CACHE_TOKENS) as engine:
        outcome = asyncio.run(some_first(engine))
    assert [result.hypotheses[0].pieces for result in outcome.results] == [
        alone(checkpoint, item)[0].pieces for item in jobs
    ]


def test_equal_sentences_at_the_same_time_are_translated_once(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    gate, counted, ear = Gate(checkpoint), Counted(checkpoint), Ear()

    async def together(engine: Engine) -> list[Outcome]:
        counted.sentences = 0
        gate.close()
        tasks = [asyncio.create_task(engine.translate("en-de", [job(6), job(6)], None)) for _ in range(5)]
        await until(lambda: engine.queued_tokens == 5 * 2 * 7)
        gate.open()
        return await asyncio.gather(*tasks)

    with running(checkpoint, observer=ear) as engine:
        outcomes = asyncio.run(together(engine))
        assert engine.queued_tokens == 0
    assert counted.sentences == 1 and ear.shared == 9
    expected = alone(checkpoint, job(6))[0].pieces
    assert [result.hypotheses[0].pieces for outcome in outcomes for result in outcome.results] == [expected] * 10


def test_a_shared_sentence_goes_on_when_the_first_who_asked_is_gone(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    gate = Gate(checkpoint)

    async def first_goes(engine: Engine) -> Outcome:
        gate.close()
        first = asyncio.create_task(engine.translate("en-de", [long_job()], None))
        await until(lambda: engine.active_sentences == 1)
        second = asyncio.create_task(engine.translate("en-de", [long_job()], None))
        await until(lambda: engine.queued_tokens == 2 * long_job().tokens)
        first.cancel()
        await asyncio.wait([first])
        gate.open()
        return await second

    with running(checkpoint) as engine:
        outcome = asyncio.run(first_goes(engine))
    assert outcome.results[0].hypotheses[0].pieces == alone(checkpoint, long_job())[0].pieces


def test_a_shared_sentence_that_fails_fails_for_all(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    fail_encoding_of(checkpoint, 7)
    poison = SegmentJob((300, 7), SearchOptions())

    async def together(engine: Engine) -> list[Outcome | BaseException]:
        calls = (engine.translate("en-de", [poison], None) for _ in range(3))
        return await asyncio.gather(*calls, return_exceptions=True)

    with running(checkpoint) as engine:
        answers = asyncio.run(together(engine))
        assert engine.queued_tokens == 0
    assert [type(answer) for answer in answers] == [SegmentFailedError] * 3


def test_a_translation_cut_short_is_not_remembered(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    gate = Gate(checkpoint)

    async def cut_then_whole(engine: Engine) -> tuple[Outcome, Outcome]:
        clock, loop = Clock(engine), asyncio.get_running_loop()
        task = asyncio.create_task(engine.translate("en-de", [long_job(60)], loop.time() + 3600, partial=True))
        gate.close()
        await until(lambda: engine.active_sentences == 1)
        clock.ahead = 7200
        gate.open()
        return await task, await engine.translate("en-de", [long_job(60)], None)

    with running(checkpoint, cache_tokens=CACHE_TOKENS) as engine:
        cut, whole = asyncio.run(cut_then_whole(engine))
    assert not cut.results[0].complete and whole.results[0].complete


@pytest.mark.parametrize("other", [job(5, beam_size=4), job(5, annotate=True), job(5, prefix=(300,))])
def test_the_same_pieces_asked_for_otherwise_are_another_sentence(tiny_checkpoint: Path, other: SegmentJob) -> None:
    checkpoint = loaded(tiny_checkpoint)
    counted = Counted(checkpoint)

    async def one_after_the_other(engine: Engine) -> None:
        await engine.translate("en-de", [job(5)], None)
        counted.sentences = 0
        await engine.translate("en-de", [other], None)

    with running(checkpoint, cache_tokens=CACHE_TOKENS) as engine:
        asyncio.run(one_after_the_other(engine))
    assert counted.sentences > 0
