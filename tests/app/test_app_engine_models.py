"""Models that come and go while others translate."""

from __future__ import annotations

import asyncio
import gc
import weakref
from pathlib import Path

import pytest
from engine_harness import (
    PATIENCE_SECONDS,
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

from app.engine import Engine, ModelFailedError, Outcome, UnknownModelError
from model.checkpoint import Checkpoint


def load(engine: Engine, checkpoint: Checkpoint, name: str = "en-de") -> None:
    engine.load(name, checkpoint.model, checkpoint.config.length_limit)


def test_what_was_asked_before_an_exchange_is_translated_by_the_old_model(
    tiny_checkpoint: Path, tiny_checkpoint_fr: Path
) -> None:
    old, new = loaded(tiny_checkpoint), loaded(tiny_checkpoint_fr)
    gate = Gate(old)
    asked = [job(length) for length in (5, 6, 7)]  # the batch has room for one at a time

    async def exchange(engine: Engine) -> tuple[Outcome, Outcome]:
        gate.close()
        before = asyncio.create_task(engine.translate("en-de", asked, None))
        await until(lambda: engine.active_sentences == 1)
        await asyncio.to_thread(load, engine, new)
        after = asyncio.create_task(engine.translate("en-de", asked, None))
        gate.open()
        return await before, await after

    with running(old, batch_tokens=8) as engine:
        before, after = asyncio.run(exchange(engine))
    for checkpoint, outcome in ((old, before), (new, after)):
        found = [result.hypotheses[0].pieces for result in outcome.results]
        assert found == [alone(checkpoint, item)[0].pieces for item in asked]


@pytest.mark.parametrize("exchanged", [True, False])
def test_a_model_that_nobody_needs_any_more_is_freed(
    tiny_checkpoint: Path, tiny_checkpoint_fr: Path, exchanged: bool
) -> None:
    def is_gone() -> bool:
        gc.collect()
        return gone() is None

    with running(loaded(tiny_checkpoint), cache_tokens=10_000) as engine:
        checkpoint = loaded(tiny_checkpoint_fr)
        gone = weakref.ref(checkpoint.model)
        load(engine, checkpoint, "en-fr")
        del checkpoint
        asyncio.run(engine.translate("en-fr", mixed_jobs(5), None))
        assert not is_gone()
        if exchanged:
            load(engine, loaded(tiny_checkpoint), "en-fr")
        else:
            engine.unload("en-fr")
        asyncio.run(until(is_gone))


def test_an_exchanged_model_is_not_answered_for_from_the_cache(tiny_checkpoint: Path, tiny_checkpoint_fr: Path) -> None:
    old, new = loaded(tiny_checkpoint), loaded(tiny_checkpoint_fr)

    async def exchange(engine: Engine) -> Outcome:
        await engine.translate("en-de", mixed_jobs(5), None)
        await asyncio.to_thread(load, engine, new)
        return await engine.translate("en-de", mixed_jobs(5), None)

    with running(old, cache_tokens=10_000) as engine:
        outcome = asyncio.run(exchange(engine))
    assert [result.hypotheses[0].pieces for result in outcome.results] == [
        alone(new, item)[0].pieces for item in mixed_jobs(5)
    ]


def test_an_unloaded_model_finishes_what_it_has_and_takes_nothing_new(
    tiny_checkpoint: Path, tiny_checkpoint_fr: Path
) -> None:
    checkpoint = loaded(tiny_checkpoint)
    gate = Gate(checkpoint)

    async def unload(engine: Engine) -> Outcome:
        gate.close()
        task = asyncio.create_task(engine.translate("en-de", [long_job()], None))
        await until(lambda: engine.active_sentences == 1)
        engine.unload("en-de")
        with pytest.raises(UnknownModelError, match="there are en-fr"):
            await engine.translate("en-de", [job(3)], None)
        gate.open()
        return await task

    with running(checkpoint, loaded(tiny_checkpoint_fr)) as engine:
        outcome = asyncio.run(unload(engine))
        with pytest.raises(UnknownModelError):
            engine.unload("en-de")
    assert outcome.results[0].hypotheses[0].pieces == alone(checkpoint, long_job())[0].pieces


def test_a_model_that_cannot_translate_is_not_taken(tiny_checkpoint: Path, tiny_checkpoint_fr: Path) -> None:
    old, broken = loaded(tiny_checkpoint), loaded(tiny_checkpoint_fr)
    fail_encoding_of(broken, broken.config.model.source_vocabulary - 1)
    with running(old) as engine:
        with pytest.raises(ModelFailedError, match=r"'en-de' could not be warmed up.*poison"):
            load(engine, broken)
        outcome = asyncio.run(engine.translate("en-de", [job(5)], None))
    assert outcome.results[0].hypotheses[0].pieces == alone(old, job(5))[0].pieces


def test_an_engine_may_begin_without_a_model(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    engine = Engine({}, queue_tokens=1000, batch_tokens=100, threads=1)
    engine.start()
    try:
        engine.wait_until_ready(PATIENCE_SECONDS)
        with pytest.raises(UnknownModelError, match="there are none"):
            asyncio.run(engine.translate("en-de", [job(5)], None))
        load(engine, checkpoint)
        outcome = asyncio.run(engine.translate("en-de", [job(5)], None))
    finally:
        engine.stop(0.0)
    assert outcome.results[0].hypotheses[0].pieces == alone(checkpoint, job(5))[0].pieces


def test_nothing_is_lost_or_mixed_up_while_models_are_exchanged_under_load(
    tiny_checkpoint: Path, tiny_checkpoint_fr: Path
) -> None:
    german, french = loaded(tiny_checkpoint), loaded(tiny_checkpoint_fr)
    jobs = mixed_jobs(60)

    async def exchange_under_load(engine: Engine) -> list[Outcome]:
        tasks = []
        for number, item in enumerate(jobs):
            tasks.append(asyncio.create_task(engine.translate("en-de", [item], None)))
            await asyncio.sleep(0)
            if number % 15 == 14:
                await asyncio.to_thread(load, engine, (french, german)[number // 15 % 2])
        return await asyncio.gather(*tasks)

    with running(german, batch_tokens=64, cache_tokens=10_000) as engine:
        outcomes = asyncio.run(exchange_under_load(engine))
        assert engine.queued_tokens == 0
    for number, (item, outcome) in enumerate(zip(jobs, outcomes, strict=True)):
        asked_of = (german, french)[number // 15 % 2]
        assert outcome.results[0].hypotheses[0].pieces == alone(asked_of, item)[0].pieces
