"""Load on a service from outside: arrivals, latencies and refusals."""

from __future__ import annotations

import asyncio
import itertools
import time
from pathlib import Path

import pytest
from engine_harness import Gate, loaded

from app.bench import service, shape
from app.bench.load import Outcome, Sample, offer, percentiles, poisson, saturate, summarise
from app.bench.subject import Sentences, Subject
from app.settings import Settings
from model.search import SearchOptions

PATIENCE_SECONDS = 20.0


def test_arrivals_depend_on_the_seed_alone() -> None:
    assert poisson(50, 10, seed=1) == poisson(50, 10, seed=1) != poisson(50, 10, seed=2)


def test_arrivals_are_a_poisson_process() -> None:
    arrivals = poisson(rate=100, seconds=100, seed=3)
    gaps = [later - earlier for earlier, later in itertools.pairwise(arrivals)]
    assert arrivals == sorted(arrivals) and arrivals[0] > 0 and arrivals[-1] < 100
    assert len(arrivals) == pytest.approx(10_000, abs=500)  # five standard deviations
    # Of exponential gaps a share of 1/e is longer than their mean.
    assert sum(gap > 0.01 for gap in gaps) / len(gaps) == pytest.approx(0.368, abs=0.025)


def test_percentiles_interpolate_between_neighbours() -> None:
    found = percentiles([number / 1000 for number in range(1, 102)])
    assert found is not None
    assert (found.p50, found.p95, found.p99, found.worst) == pytest.approx((51, 96, 100, 101))
    between = percentiles([0.010, 0.020])
    assert between is not None and between.p50 == pytest.approx(15)


def test_of_nothing_there_are_no_percentiles() -> None:
    assert percentiles([]) is None


def test_arrivals_do_not_wait_for_answers() -> None:
    async def all_at_once() -> list[Sample]:
        everybody_has_asked = asyncio.Event()
        asked: list[int] = []

        async def ask(number: int) -> Outcome:
            asked.append(number)
            if len(asked) == 5:
                everybody_has_asked.set()
            await everybody_has_asked.wait()
            return "answered"

        return await asyncio.wait_for(offer([0.0, 0.001, 0.001, 0.002, 0.003], ask), PATIENCE_SECONDS)

    assert [sample.outcome for sample in asyncio.run(all_at_once())] == ["answered"] * 5


def test_a_latency_counts_from_when_the_request_was_due() -> None:
    async def first_blocks_the_loop(number: int) -> Outcome:
        if number == 0:
            time.sleep(0.05)
        return "answered"

    first, second = asyncio.run(offer([0.0, 0.01], first_blocks_the_loop))
    assert first.seconds >= 0.05
    assert second.seconds >= 0.03, "it could not be sent when it was due, and that counts"


def test_every_outcome_is_counted() -> None:
    outcomes: list[Outcome] = ["answered", "refused", "answered", "late", "failed", "refused", "answered"]
    samples = [Sample(float(number), number + 0.5, outcome) for number, outcome in enumerate(outcomes)]
    load = summarise(samples, share=2.0, rate=1.4, seconds=5.0)
    assert (load.requests, load.answered, load.refused, load.late, load.failed) == (7, 3, 2, 1, 1)
    # Answers at 0.5 (in the ramp), 2.5 and 6.5 (after the end): one in four seconds.
    assert load.answered_per_second == 0.25
    assert load.latency_ms is not None and load.latency_ms.p50 == load.latency_ms.worst == 500


def test_capacity_is_what_clients_get_that_ask_again_at_once() -> None:
    under_way = most = answered = 0

    async def ask(number: int) -> Outcome:
        nonlocal under_way, most, answered
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.001)
        under_way -= 1
        answered += 1
        return "answered" if number % 2 else "refused"

    capacity = asyncio.run(saturate(ask, clients=4, seconds=0.05))
    assert most == 4 and answered >= 2 * (2 * 4 + 10)
    assert 0 < capacity <= 4000 / 2 * 1.5, "four clients at a millisecond each, every other one refused"


def test_what_the_queue_cannot_take_is_counted_as_refused(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    shape.force_lengths(checkpoint.model)
    sentences, options = Sentences(checkpoint.config.model), SearchOptions(beam_size=2)
    operations = shape.operations(checkpoint.model)
    subject = Subject("tiny", checkpoint.model, "float32", shape.FORCED, options, operations, sentences)
    sources = sentences.take(30)
    settings = Settings(queue_tokens=100, threads=1)
    room, expected = settings.queue_tokens, 0
    for source in sources:
        expected += len(source) + 1 > room
        room -= 0 if len(source) + 1 > room else len(source) + 1

    with service.running(subject, settings) as engine:
        gate = Gate(checkpoint)
        ask = service.asking(engine, subject, sources, deadline_seconds=PATIENCE_SECONDS)

        async def asking(number: int) -> Outcome:
            if number == len(sources) - 1:
                asyncio.get_running_loop().call_soon(gate.open)
            return await ask(number)

        gate.close()
        samples = asyncio.run(offer([0.0] * len(sources), asking))
    load = summarise(samples, share=2.0, rate=1.0, seconds=1.0)
    assert 0 < expected < len(sources)
    assert (load.refused, load.answered) == (expected, len(sources) - expected)


def test_a_deadline_that_passes_is_counted_as_late(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    sentences = Sentences(checkpoint.config.model)
    operations = shape.operations(checkpoint.model)
    subject = Subject("tiny", checkpoint.model, "float32", shape.FORCED, SearchOptions(), operations, sentences)
    with service.running(subject, Settings(threads=1)) as engine:
        ask = service.asking(engine, subject, sentences.take(1), deadline_seconds=0.0)
        assert asyncio.run(ask(0)) == "late"
