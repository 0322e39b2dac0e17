"""The search by itself: sentences a second by batch size beside the floor, and the latency of one by its length."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch

from app.bench import machine
from app.bench.load import Percentiles, percentiles
from app.bench.subject import Source, Subject
from model.config import Frozen
from model.search import STRIDE

Result = TypeVar("Result")


class Throughput(Frozen):
    """Batches of one size, sentences of like length together."""

    batch: int  # sentences under way, in all lanes together
    lanes: int  # searches side by side, with their shares of the threads and of each batch
    sentences_per_second: float  # median of the rounds
    slowest: float
    fastest: float
    floor: float  # sentences a second if there were nothing but the matrix products


class Latency(Frozen):
    """Sentences translated one at a time."""

    pieces: float  # of a source, on average
    sentences: int
    mean_ms: float
    latency_ms: Percentiles


def throughput(subject: Subject, batches: Sequence[int], sentences: int, rounds: int, threads: int) -> list[Throughput]:
    """Sentences a second for each size of ``batches``, in one lane of all ``threads`` and in lanes of one thread each.

    All are measured in turn in each of ``rounds`` rounds.
    """
    sources = {batch: subject.sentences.take(max(sentences, batch)) for batch in batches}
    needed = subject.needed(_target_pieces(subject, sources[batches[0]][:32]))
    ways = [(batch, lanes) for batch in batches for lanes in sorted({1, min(threads, batch)})]

    def run(batch: int, lanes: int, count: int | None = None) -> None:
        parts = _parts(sources[batch][:count], batch, lanes)
        _in_lanes(lanes, threads, lambda lane: _translate_all(subject, parts[lane]))

    for batch, lanes in ways:
        run(batch, lanes, count=batch)
    seconds: dict[tuple[int, int], list[float]] = {way: [] for way in ways}
    for _, way in itertools.product(range(rounds), ways):
        seconds[way].append(machine.timed(partial(run, *way)))
    return [
        Throughput(
            batch=batch,
            lanes=lanes,
            sentences_per_second=len(sources[batch]) / statistics.median(taken),
            slowest=len(sources[batch]) / max(taken),
            fastest=len(sources[batch]) / min(taken),
            floor=_product_rate(subject, batch, lanes, threads) / needed,
        )
        for (batch, lanes), taken in seconds.items()
    ]


def latency(subject: Subject, sources: Sequence[Source]) -> Latency:
    """Translate each of ``sources`` by itself, after the first of them to warm up."""
    _translate_one(subject, sources[0])
    seconds = [machine.timed(partial(_translate_one, subject, source)) for source in sources]
    spread = percentiles(seconds)
    assert spread is not None  # there is a first source
    return Latency(
        pieces=statistics.mean(map(len, sources)),
        sentences=len(sources),
        mean_ms=statistics.mean(seconds) * 1e3,
        latency_ms=spread,
    )


def _parts(sources: Sequence[Source], batch: int, lanes: int) -> list[list[list[Source]]]:
    """For each lane its share of each batch; sentences of like length make a batch."""
    ordered = sorted(sources, key=len)
    starts = range(0, len(ordered), batch)
    return [
        [part for start in starts if (part := ordered[start + lane : start + batch : lanes])] for lane in range(lanes)
    ]


def _in_lanes(lanes: int, threads: int, work: Callable[[int], Result]) -> list[Result]:
    """``work(lane)`` of all lanes at once, each with its share of the threads.

    One lane is the calling thread: OpenMP would keep this one's helpers besides another's, count more threads than
    cores, and let them sleep between any two operations.
    """
    if lanes == 1:
        torch.set_num_threads(threads)
        return [work(0)]

    def one(lane: int) -> Result:
        torch.set_num_threads(max(1, threads // lanes))  # of this thread only
        return work(lane)

    with ThreadPoolExecutor(lanes) as pool:
        return list(pool.map(one, range(lanes)))


def _product_rate(subject: Subject, batch: int, lanes: int, threads: int) -> float:
    """Operations a second of one product in all lanes at once, each with its share of the batch's rows."""
    rows = max(1, batch // lanes) * subject.options.beam_size
    return sum(_in_lanes(lanes, threads, lambda _: subject.product_rate(rows)))


def _translate_all(subject: Subject, batches: Sequence[Sequence[Source]]) -> None:
    """Each batch begins when the one before has ended."""
    for batch in batches:
        search = subject.search()
        search.admit(batch, [subject.options] * len(batch))
        while search.active:
            search.step(STRIDE)


def _translate_one(subject: Subject, source: Source) -> None:
    subject.translate([source])


def _target_pieces(subject: Subject, sources: Sequence[Source]) -> float:
    """Pieces of an average sentence's translation, estimated from some of them."""
    found = subject.translate(sources)
    ratio = sum(len(hypotheses[0].pieces) for hypotheses in found) / sum(map(len, sources))
    return ratio * subject.sentences.mean_pieces
