"""The search by itself: sentences a second by batch size beside the floor, and the latency of one by its length."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial

from app.bench import machine
from app.bench.load import Percentiles, percentiles
from app.bench.subject import Source, Subject
from model.config import Frozen


class Throughput(Frozen):
    """Batches of one size, sentences of like length together."""

    batch: int
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


def throughput(subject: Subject, batches: Sequence[int], sentences: int, rounds: int) -> list[Throughput]:
    """Sentences a second for each size of ``batches``, measured in turn in each of ``rounds`` rounds."""
    sources = {batch: subject.sentences.take(max(sentences, batch)) for batch in batches}
    needed = subject.needed(_target_pieces(subject, sources[batches[0]][:32]))
    for batch in batches:
        _translate_all(subject, sources[batch][:batch], batch)
    seconds: dict[int, list[float]] = {batch: [] for batch in batches}
    for _ in range(rounds):
        for batch in batches:
            seconds[batch].append(machine.timed(partial(_translate_all, subject, sources[batch], batch)))
    return [
        Throughput(
            batch=batch,
            sentences_per_second=len(sources[batch]) / statistics.median(taken),
            slowest=len(sources[batch]) / max(taken),
            fastest=len(sources[batch]) / min(taken),
            floor=subject.product_rate(batch * subject.options.beam_size) / needed,
        )
        for batch, taken in seconds.items()
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


def _translate_all(subject: Subject, sources: Sequence[Source], batch: int) -> None:
    """Batches of like length, each begun when the one before has ended."""
    ordered = sorted(sources, key=len)
    for start in range(0, len(ordered), batch):
        search = subject.search()
        part = ordered[start : start + batch]
        search.admit(part, [subject.options] * len(part))
        while search.active:
            search.step()


def _translate_one(subject: Subject, source: Source) -> None:
    subject.translate([source])


def _target_pieces(subject: Subject, sources: Sequence[Source]) -> float:
    """Pieces of an average sentence's translation, estimated from some of them."""
    found = subject.translate(sources)
    ratio = sum(len(hypotheses[0].pieces) for hypotheses in found) / sum(map(len, sources))
    return ratio * subject.sentences.mean_pieces
