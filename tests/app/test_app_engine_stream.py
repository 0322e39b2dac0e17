"""Results one by one, as segments finish."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from engine_harness import Gate, alone, fail_encoding_of, job, loaded, long_job, long_jobs, mixed_jobs, running, until

from app.engine import Engine, QueueFullError, SegmentFailedError, SegmentJob, UnknownModelError
from model.search import SearchOptions


def test_results_come_as_segments_finish(tiny_checkpoint: Path) -> None:
    async def numbers(engine: Engine) -> list[int]:
        return [number async for number, _ in engine.stream("en-de", [long_job(40), job(3, max_length=2)], None)]

    with running(loaded(tiny_checkpoint)) as engine:
        assert asyncio.run(numbers(engine)) == [1, 0]


def test_every_job_comes_once_with_its_own_translation(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    jobs = mixed_jobs(40)

    async def all_of_them(engine: Engine) -> list[tuple[int, tuple[int, ...]]]:
        return [
            (number, result.hypotheses[0].pieces)
            async for number, result in engine.stream("en-de", jobs, None)
            if result.complete
        ]

    with running(checkpoint, batch_tokens=60) as engine:
        answers = asyncio.run(all_of_them(engine))
    assert sorted(answers) == [(number, alone(checkpoint, item)[0].pieces) for number, item in enumerate(jobs)]


def test_what_is_refused_is_refused_before_anything_is_read(tiny_checkpoint: Path) -> None:
    async def refused(engine: Engine) -> None:
        with pytest.raises(UnknownModelError):
            engine.stream("en-xx", [job(3)], None)
        gate.close()
        taken = engine.stream("en-de", [job(40)], None)
        with pytest.raises(QueueFullError):
            engine.stream("en-de", [job(30)], None)
        gate.open()
        assert [number async for number, _ in taken] == [0]

    checkpoint = loaded(tiny_checkpoint)
    gate = Gate(checkpoint)
    with running(checkpoint, queue_tokens=50) as engine:
        asyncio.run(refused(engine))


def test_a_closed_stream_drops_what_is_left(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    gate = Gate(checkpoint)

    async def close(engine: Engine) -> None:
        stream = engine.stream("en-de", [job(3, max_length=1), *long_jobs(30, 200)], None)
        assert (await anext(stream))[0] == 0
        gate.close()
        await stream.aclose()
        assert engine.queued_tokens == 0
        gate.open()
        await until(lambda: engine.active_sentences == 0)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    with running(checkpoint) as engine:
        asyncio.run(close(engine))


def test_a_stream_that_nobody_holds_any_more_is_dropped(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    gate = Gate(checkpoint)

    async def let_go(engine: Engine) -> None:
        gate.close()
        stream = engine.stream("en-de", long_jobs(30, 200), None)
        await until(lambda: engine.active_sentences > 0)
        del stream
        gate.open()
        await until(lambda: engine.queued_tokens == 0 and engine.active_sentences == 0)

    with running(checkpoint, batch_tokens=50) as engine:
        asyncio.run(let_go(engine))


def test_what_was_done_before_a_failure_is_read_before_it(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    poison = SegmentJob((300, 7, 301), SearchOptions())
    gate = Gate(checkpoint)

    async def fail(engine: Engine) -> None:
        stream = engine.stream("en-de", [job(3, max_length=1), poison, *long_jobs(3, 200)], None)
        assert (await anext(stream))[0] == 0
        with pytest.raises(SegmentFailedError, match="segment 1"):
            await anext(stream)
        assert engine.queued_tokens == 0

    with running(checkpoint, batch_tokens=5) as engine:
        fail_encoding_of(checkpoint, 7)
        assert gate.steps
        asyncio.run(fail(engine))
