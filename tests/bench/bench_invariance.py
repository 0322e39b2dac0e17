"""Batch invariance at scale: each sentence alone, in batches, shuffled, and through the loaded engine.

python -m tests.bench.bench_invariance                                    # the bundled checkpoint, random pieces
python -m tests.bench.bench_invariance --source FILE --precision float32,int8 --json FILE
python -m tests.bench.bench_invariance --source FILE --precision int8 --shortlist

Counts the texts that differ from those that the sentences have alone. The search is the same whatever the batch, but a
product of 160 rows may differ from one of 5 in the last bit, so two hypotheses that are that close may change places.
Of each difference the gap is told: by how much the score of the translation that the sentence has alone falls short of
the other's or exceeds it, both scored anew, alone and in float32. A gap of about 1e-6 is such a near-tie; one that is
larger than the precision explains is a fault. Exits with status 1 if any text differs in float32 by more than 1e-4.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, get_args

import torch
from rich.console import Console
from rich.table import Table

from app.bench import machine, service
from app.bench.subject import Sentences, Source, Subject, read_text
from app.engine import SegmentJob
from app.settings import BUNDLED, Settings
from model.checkpoint import Checkpoint, load_checkpoint
from model.precision import Precision, supported
from model.search import SearchOptions, annotate
from model.seq2seq import Seq2Seq
from tokenizer.subword import load_tokenizers

BATCHES = (7, 32, 256)
EXPLAINED = 1e-4  # a gap that rounding in float32 can explain
NOISE = 0.5  # share of the requests through the engine that are not compared, and are wider, shorter or cancelled
Pieces = list[tuple[int, ...]]


class Row(NamedTuple):
    """One way through the search, beside the sentences alone."""

    precision: str
    way: str
    differing: int  # texts
    differing_pieces: int  # sentences of which the pieces differ, whether or not the text does
    largest_gap: float  # of scores, both in float32
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=BUNDLED / "en-de")
    parser.add_argument("--source", type=Path, help="text, a sentence a line; else random pieces")
    parser.add_argument("--sentences", type=int, default=1000)
    parser.add_argument("--precision", default="all", help="precisions, separated by commas; all: what runs here")
    parser.add_argument("--shortlist", action="store_true", help="each with the checkpoint's shortlist")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    checkpoint = load_checkpoint(arguments.checkpoint)
    text = read_text(arguments.source, checkpoint) if arguments.source else ()
    sources = Sentences(checkpoint.config.model, text).take(arguments.sentences)
    if not arguments.shortlist:
        checkpoint = checkpoint._replace(shortlist=None)
    elif checkpoint.shortlist is None:
        sys.exit(f"{arguments.checkpoint} has no shortlist; ferry-train shortlist makes one")
    rows: list[Row] = []
    for precision in _precisions(arguments.precision):
        rows += compare(checkpoint, sources, precision, arguments.threads)
    print(
        f"{machine.read()}; {checkpoint.config.name}, {len(sources)} sentences", *(["shortlist"] * arguments.shortlist)
    )
    Console(highlight=False, width=120).print(_table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps([row._asdict() for row in rows], indent=2) + "\n")
    sys.exit(any(row.precision == "float32" and row.largest_gap > EXPLAINED for row in rows))


def compare(checkpoint: Checkpoint, sources: Sequence[Source], precision: Precision, threads: int) -> Iterator[Row]:
    """A row for each way; ``sources`` alone are the measure of all of them."""
    subject = _subject(checkpoint, precision)
    decode = load_tokenizers(checkpoint.folder).target.decode
    shuffled = list(range(len(sources)))
    random.Random(3).shuffle(shuffled)
    began = time.perf_counter()
    alone = _in_batches(subject, sources, size=1)
    yield Row(precision, "alone", 0, 0, 0.0, time.perf_counter() - began)
    for way, found, seconds in _ways(subject, sources, shuffled, threads):
        places = [place for place, pieces in enumerate(found) if pieces != alone[place]]
        texts = sum(decode(found[place]) != decode(alone[place]) for place in places)
        gaps = [_gap(checkpoint.model, subject, sources[place], alone[place], found[place]) for place in places]
        yield Row(precision, way, texts, len(places), max(gaps, default=0.0), seconds)


def _ways(
    subject: Subject, sources: Sequence[Source], shuffled: Sequence[int], threads: int
) -> Iterator[tuple[str, Pieces, float]]:
    """The sentences' translations in the order of ``sources``, by each way, and how long it took."""
    ways: dict[str, Callable[[Sequence[Source]], Pieces]] = {
        **{f"batches of {size}": partial(_in_batches, subject, size=size) for size in BATCHES},
        "through the loaded engine": partial(_through_engine, subject, threads=threads),
    }
    for way, translate in ways.items():
        for order, name in ((range(len(sources)), way), (shuffled, f"shuffled, {way}")):
            began = time.perf_counter()
            found = translate([sources[place] for place in order])
            seconds = time.perf_counter() - began
            yield name, [pieces for _, pieces in sorted(zip(order, found, strict=True))], seconds


def _in_batches(subject: Subject, sources: Sequence[Source], *, size: int) -> Pieces:
    """Batches of ``size`` in the order given, so that short and long sentences share them."""
    found: Pieces = []
    for start in range(0, len(sources), size):
        search = subject.search()
        part = sources[start : start + size]
        tickets = search.admit(part, [subject.options] * len(part))
        done = {}
        while search.active:
            done.update({item.ticket: item.hypotheses[0].pieces for item in search.step()})
        found += [done[ticket] for ticket in tickets]
    return found


def _through_engine(subject: Subject, sources: Sequence[Source], *, threads: int) -> Pieces:
    """All at once, among requests of other kinds of which some are given up."""

    async def ask() -> Pieces:
        draw, compared = random.Random(4), []
        others = []
        for source in sources:
            compared.append(asyncio.create_task(engine.translate(subject.name, [_job(subject, source)], None)))
            if draw.random() < NOISE:
                beam, cut = draw.choice([1, 3, 12]), draw.randint(1, len(source))
                options = subject.options._replace(beam_size=beam)
                other = SegmentJob(tuple(source[:cut]), options, annotate=draw.random() < 0.2)
                others.append(asyncio.create_task(engine.translate(subject.name, [other], None)))
            if others and draw.random() < NOISE / 4:
                draw.choice(others).cancel()
            await asyncio.sleep(0)
        outcomes = await asyncio.gather(*compared)
        await asyncio.gather(*others, return_exceptions=True)
        return [outcome.results[0].hypotheses[0].pieces for outcome in outcomes]

    settings = Settings(threads=threads, queue_tokens=10_000_000)
    with service.running(subject, settings) as engine:
        return asyncio.run(ask())


def _job(subject: Subject, source: Source) -> SegmentJob:
    return SegmentJob(tuple(source), subject.options)


def _gap(model: Seq2Seq, subject: Subject, source: Source, alone: tuple[int, ...], other: tuple[int, ...]) -> float:
    """Difference of the scores of two translations under the model in float32."""
    first, second = annotate(model, [source, source], [alone, other])
    penalty = subject.options.length_penalty.penalty
    scores = [sum(item.log_probabilities) / penalty(len(item.log_probabilities)) for item in (first, second)]
    return abs(scores[0] - scores[1])


def _subject(checkpoint: Checkpoint, precision: Precision) -> Subject:
    config = checkpoint.config
    options = SearchOptions(config.beam_size, length_penalty=config.length_penalty)
    parts = (config.length_limit, options, Sentences(config.model))
    return Subject.prepared(config.name, checkpoint.model, precision, *parts, checkpoint.shortlist)


def _precisions(names: str) -> Sequence[Precision]:
    if names == "all":
        return supported()
    chosen = [precision for precision in get_args(Precision) if precision in names.split(",")]
    if len(chosen) != len(names.split(",")):
        sys.exit(f"--precision is {names}; choose among {', '.join(get_args(Precision))}, or all")
    return chosen


def _table(rows: Sequence[Row]) -> Table:
    table = Table(title="Differences from each sentence alone", title_justify="left", box=None)
    for column in ("precision", "way", "texts", "pieces", "largest gap of scores", "seconds"):
        table.add_column(column, justify="left" if column in ("precision", "way") else "right")
    for row in rows:
        gap = f"{row.largest_gap:.1e}" if row.differing_pieces else "-"
        counts = str(row.differing), str(row.differing_pieces)
        table.add_row(row.precision, row.way, *counts, gap, f"{row.seconds:.1f}")
    return table


if __name__ == "__main__":
    main()
