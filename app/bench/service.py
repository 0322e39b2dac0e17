"""The engine as the service runs it, under arrivals that do not wait for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from app.bench.load import Ask, Load, Outcome, offer, poisson, saturate, summarise
from app.bench.subject import Source, Subject
from app.engine import DeadlineError, Engine, EngineError, QueueFullError, SegmentJob
from app.engine.models import EngineModel
from app.settings import Settings
from model.config import Frozen

SHARES = (0.5, 0.8, 1.0, 2.0)  # of the capacity
READY_SECONDS = 120.0
SUPPLY = 5000  # different sentences; more than wait at once, so that few stand side by side twice


class ServiceFigures(Frozen):
    """What the engine does when requests come as they please, a sentence each."""

    capacity_per_second: float  # while as many ask as can be under way, each again when answered
    capacity_after_per_second: float  # the same after the loads: on a shared machine it may be another
    clients: int
    queue_tokens: int
    seconds: float  # of each load
    loads: tuple[Load, ...]


def measure(subject: Subject, settings: Settings, seconds: float, seed: int) -> ServiceFigures:
    """The engine's capacity, its answers under Poisson arrivals at shares of it, and its capacity again.

    Each takes ``seconds``.
    """
    with running(subject, settings) as engine:
        ask = asking(engine, subject, subject.sentences.take(SUPPLY), settings.deadline_ms / 1000)
        # As many as the batch would hold without any padding, so that some always wait and nobody is refused.
        clients = max(1, min(settings.batch_tokens, settings.queue_tokens // 2) // _tokens(subject))
        return asyncio.run(_measure(ask, clients, settings.queue_tokens, seconds, seed))


async def _measure(ask: Ask, clients: int, queue_tokens: int, seconds: float, seed: int) -> ServiceFigures:
    capacity = await saturate(ask, clients, seconds)
    loads = []
    for share in SHARES:
        rate = share * capacity
        samples = await offer(poisson(rate, seconds, seed), ask)
        loads.append(summarise(samples, share, rate, seconds))
    return ServiceFigures(
        capacity_per_second=capacity,
        capacity_after_per_second=await saturate(ask, clients, seconds),
        clients=clients,
        queue_tokens=queue_tokens,
        seconds=seconds,
        loads=tuple(loads),
    )


@contextmanager
def running(subject: Subject, settings: Settings) -> Iterator[Engine]:
    """An engine as the service has it, with the subject's model; it takes work, and is stopped at the end."""
    engine = Engine(
        {subject.name: EngineModel(subject.model, subject.length_limit, subject.shortlist)},
        queue_tokens=settings.queue_tokens,
        batch_tokens=settings.batch_tokens,
        threads=settings.thread_count(),
        lanes=settings.lanes,
        longest_wait_seconds=settings.longest_wait_seconds,
        cache_tokens=0,  # a sentence that comes again is to be translated again
    )
    engine.start()
    try:
        engine.wait_until_ready(READY_SECONDS)
        yield engine
    finally:
        engine.stop(drain_seconds=0.0)


def asking(engine: Engine, subject: Subject, sources: Sequence[Source], deadline_seconds: float) -> Ask:
    """One request is one of ``sources``, by its number."""
    jobs = [SegmentJob(tuple(source), subject.options) for source in sources]

    async def ask(number: int) -> Outcome:
        try:
            await engine.translate(subject.name, [jobs[number % len(jobs)]], time.monotonic() + deadline_seconds)
        except QueueFullError:
            return "refused"
        except DeadlineError:
            return "late"
        except EngineError:
            return "failed"
        return "answered"

    return ask


def _tokens(subject: Subject) -> int:
    """Of an average sentence, in the engine's count."""
    return round(subject.sentences.mean_pieces) + 1
