"""Load on a service from outside: arrivals that do not wait for answers, and what became of each.

A client that waits for an answer before it asks again slows down with the service, and its latencies leave out the time
that requests would have waited ("coordinated omission"; Tene, "How NOT to Measure Latency"). Here arrivals are drawn
beforehand, and a latency counts from the moment at which a request was due, not from when it could be sent.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from model.config import Frozen

Outcome = Literal["answered", "refused", "late", "failed"]
RAMP = 0.2  # share of the time in which the batch fills; it does not count in a rate
Ask = Callable[[int], Awaitable[Outcome]]  # one request, by its number


class Sample(NamedTuple):
    """What became of one request."""

    due: float  # seconds after the load began
    finished: float  # the same clock
    outcome: Outcome

    @property
    def seconds(self) -> float:
        """From when it was due until its answer."""
        return self.finished - self.due


class Percentiles(Frozen):
    """Of the latencies of answered requests, milliseconds."""

    p50: float
    p95: float
    p99: float
    worst: float


class Load(Frozen):
    """A service under a stream of requests."""

    share: float  # of the capacity
    offered_per_second: float
    requests: int
    answered: int
    refused: int  # 429: no room
    late: int  # 504: the deadline passed
    failed: int
    answered_per_second: float  # while requests were arriving
    latency_ms: Percentiles | None  # None if nothing was answered


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Times of arrival in ``seconds``, ``rate`` of them a second on average, the gaps between them exponential."""
    draw = random.Random(seed)
    arrivals: list[float] = []
    now = draw.expovariate(rate)
    while now < seconds:
        arrivals.append(now)
        now += draw.expovariate(rate)
    return arrivals


async def offer(arrivals: Sequence[float], ask: Ask) -> list[Sample]:
    """Ask at each of ``arrivals`` (seconds from now), whatever became of those before; wait for all of the answers."""
    began = time.perf_counter()

    async def one(number: int, due: float) -> Sample:
        outcome = await ask(number)
        return Sample(due, time.perf_counter() - began, outcome)

    asked = []
    for number, due in enumerate(arrivals):
        # Without a sleep, too, others get their turn: a generator that is behind must not starve the answers.
        await asyncio.sleep(max(0.0, due - (time.perf_counter() - began)))
        asked.append(asyncio.create_task(one(number, due)))
    return await asyncio.gather(*asked)


async def saturate(ask: Ask, clients: int, seconds: float) -> float:
    """Answers a second while ``clients`` ask again as soon as they are answered: the capacity.

    Goes on beyond ``seconds`` until every client has had some answers, so that there is a rate to speak of.
    """
    began, numbers, wanted = time.perf_counter(), itertools.count(), 2 * clients + 10
    finished: list[float] = []  # times of the answers

    async def client() -> None:
        while time.perf_counter() - began < seconds or len(finished) < wanted:
            if await ask(next(numbers)) == "answered":
                finished.append(time.perf_counter())
            await asyncio.sleep(0)  # a refusal may come without a wait

    await asyncio.gather(*(client() for _ in range(clients)))
    # The last answer of each client comes from a batch that is not filled again.
    steady = finished[round(RAMP * len(finished)) : -clients]
    return (len(steady) - 1) / (steady[-1] - steady[0])


def summarise(samples: Sequence[Sample], share: float, rate: float, seconds: float) -> Load:
    """A load of ``rate`` requests a second over ``seconds``, in figures."""
    outcomes = Counter(sample.outcome for sample in samples)
    answered = [sample for sample in samples if sample.outcome == "answered"]
    return Load(
        share=share,
        offered_per_second=rate,
        requests=len(samples),
        answered=len(answered),
        refused=outcomes["refused"],
        late=outcomes["late"],
        failed=outcomes["failed"],
        answered_per_second=_steady_rate(samples, seconds),
        latency_ms=percentiles([sample.seconds for sample in answered]),
    )


def percentiles(seconds: Sequence[float]) -> Percentiles | None:
    """Of some latencies in seconds, interpolated between neighbours; None of none."""
    if not seconds:
        return None
    p50, p95, p99 = np.percentile(np.array(seconds) * 1e3, [50, 95, 99])
    return Percentiles(p50=p50, p95=p95, p99=p99, worst=max(seconds) * 1e3)


def _steady_rate(samples: Sequence[Sample], seconds: float) -> float:
    """Answers a second between the ramp and the end of the arrivals."""
    counted = sum(sample.outcome == "answered" and RAMP * seconds <= sample.finished < seconds for sample in samples)
    return counted / (seconds * (1 - RAMP))
