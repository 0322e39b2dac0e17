"""Translation speed beside CTranslate2 and OpenNMT-py: the same source lengths, the same forced output lengths, beam 5.

python -m tests.bench.peers.bench_translation_peers --make-environment /tmp/peers
python -m tests.bench.peers.bench_translation_peers --make-environment /tmp/peers --json FILE

Makes an environment for each peer in that folder where there is none yet. All models have random weights and a joint
vocabulary of 8,000; end-of-sentence is ruled out, so that every system puts out the same number of pieces: 1.2 times
the mean source length of the batch, as the peers force one length for a whole call. Ferry takes one step more than the
others, in which end-of-sentence is scored. Each system is measured with all threads in every operation, and in as many
lanes of one thread, which share each batch: lanes of one process for Ferry, a process each for the peers. The systems
take turns in each round; a figure is the median of the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from app.bench import machine, shape
from app.bench.subject import Sentences, Source
from tests.bench.peers.systems import Batch, System, candidates, prepare


class Figures(NamedTuple):
    """Medians of the rounds."""

    sentences_per_second: dict[int, float]  # by batch size
    pieces_per_second: dict[int, float]  # put out, by batch size
    latency_ms_mean: float  # of one sentence at a time

    @property
    def best(self) -> int:
        """The batch size with the most sentences a second."""
        return max(self.sentences_per_second, key=lambda size: self.sentences_per_second[size])


class Work(NamedTuple):
    """What every system is given in each round."""

    batches: dict[int, list[Batch]]  # by batch size
    singles: list[Batch]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make-environment", type=Path, required=True, metavar="DIR", help="folder of environments")
    parser.add_argument("--batches", default="32,64,128", help="batch sizes: the first and the best are shown")
    parser.add_argument("--sentences", type=int, default=256, help="translated in each round, for each batch size")
    parser.add_argument("--singles", type=int, default=32, help="translated one at a time in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--beam-size", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="measure the systems whose names hold this")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    arguments = parser.parse_args()
    starting = candidates(prepare(arguments.make_environment), arguments.beam_size, arguments.threads)
    sizes = [int(size) for size in arguments.batches.split(",")]
    sources = Sentences(shape.REFERENCE).take(max(arguments.sentences, *sizes))
    work = Work(
        {size: cut(sources[: max(arguments.sentences, size)], size) for size in sizes},
        cut(sources[: arguments.singles], 1),
    )
    where = machine.read()
    with ExitStack() as stack:
        chosen = {name: system for name, system in starting.items() if arguments.only in name}
        systems = {name: stack.enter_context(system) for name, system in chosen.items()}
        figures = measure(systems, work, arguments.rounds)
    show(where, figures, sizes[0])
    if arguments.json:
        content = {"machine": where.model_dump(), "systems": {name: item._asdict() for name, item in figures.items()}}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")


def cut(sources: Sequence[Source], size: int) -> list[Batch]:
    """Batches of like length, and how long their outputs are to be."""
    ordered = sorted(sources, key=len)
    parts = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    return [Batch(part, round(shape.STRETCH * sum(map(len, part)) / len(part))) for part in parts]


def measure(systems: dict[str, System], work: Work, rounds: int) -> dict[str, Figures]:
    """All systems in turn, round by round."""
    speeds: dict[str, dict[int, list[float]]] = {name: {size: [] for size in work.batches} for name in systems}
    latencies: dict[str, list[float]] = {name: [] for name in systems}
    for name, system in systems.items():
        check(name, system, [next(iter(work.batches.values()))[0], work.singles[0]])
    for _ in range(rounds):
        for name, system in systems.items():
            for size, batches in work.batches.items():
                sentences = sum(len(batch.sources) for batch in batches)
                speeds[name][size].append(sentences / sum(system(batches).seconds))
            latencies[name].append(statistics.mean(system([work.singles[0], *work.singles]).seconds[1:]) * 1e3)
    return {name: figures(speeds[name], work, latencies[name]) for name in systems}


def check(name: str, system: System, batches: Sequence[Batch]) -> None:
    """Warm a system up; stop if it puts out more or less than it was told to, as its work would not be the same."""
    expected = sum(len(batch.sources) * batch.length for batch in batches)
    found = system(batches).pieces
    if found != expected:
        sys.exit(f"{name} put out {found} pieces; its output lengths were to be forced to {expected} in all")


def figures(speeds: dict[int, list[float]], work: Work, latencies: list[float]) -> Figures:
    """Medians of what the rounds gave."""
    sentences = {size: statistics.median(found) for size, found in speeds.items()}
    pieces = {}
    for size, batches in work.batches.items():
        put_out = sum(len(batch.sources) * batch.length for batch in batches)
        pieces[size] = sentences[size] * put_out / sum(len(batch.sources) for batch in batches)
    return Figures(sentences, pieces, statistics.median(latencies))


def show(where: machine.Machine, found: dict[str, Figures], first: int) -> None:
    """The table that stands in the README."""
    table = Table(title=str(where), title_justify="left", box=None)
    table.add_column("system")
    for column in (f"batch {first}, sentences/s", "pieces/s", "best, sentences/s", "at batch", "one, mean ms"):
        table.add_column(column, justify="right")
    for name, item in found.items():
        at_first = f"{item.sentences_per_second[first]:.1f}", f"{item.pieces_per_second[first]:,.0f}"
        at_best = f"{item.sentences_per_second[item.best]:.1f}", str(item.best)
        table.add_row(name, *at_first, *at_best, f"{item.latency_ms_mean:.1f}")
    Console(soft_wrap=True, highlight=False, width=160).print(table)


if __name__ == "__main__":
    main()
