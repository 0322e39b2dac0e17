"""What the operators in C++ gain: the same search with them and in plain torch, in turn, so that noise meets both.

python -m tests.bench.bench_operators                       # the reference shape, random weights, forced lengths
python -m tests.bench.bench_operators --checkpoint app/checkpoints/en-de --source FILE
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple, get_args

import torch

from model import native
from model.config import LengthLimit
from model.precision import Precision, prepare
from model.search import SearchOptions, translate
from model.seq2seq import Seq2Seq
from tests.bench import bench_decoding, machine, shapes

WAYS = {"plain torch": native.set_aside, "operators": nullcontext}


class Figures(NamedTuple):
    """Of one round."""

    rate: float  # sentences a second, refilled as sentences leave
    milliseconds: float  # for a sentence alone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shapes.add_shape(parser)
    bench_decoding.add_subject(parser)
    parser.add_argument("--precisions", nargs="+", choices=get_args(Precision), default=["int8", "float32"])
    parser.add_argument("--singles", type=int, default=20, help="sentences translated alone in each round")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    operators = native.operators(torch.device("cpu"))
    if operators is None:
        parser.error("the operators are not built: python -m model.native.build")
    trained, limit, sources = bench_decoding.subject(arguments)
    print(machine.describe(), machine.load(), f"operators for {operators.capability}", sep=", ")
    print(f"{shapes.describe(trained)}; beam {arguments.beam_size}; batches of {arguments.batch}")
    for precision in arguments.precisions:
        found = _measure(trained, precision, arguments, partial(_round, limit, sources, arguments))
        for way, rounds in found.items():
            rate, alone = (statistics.median(column) for column in zip(*rounds, strict=True))
            print(f"{precision}, {way}: {rate:.1f} sentences/s, one sentence {alone:.1f} ms")
        pairs = list(zip(found["operators"], found["plain torch"], strict=True))
        faster = statistics.median(new.rate / old.rate for new, old in pairs)
        sooner = statistics.median(old.milliseconds / new.milliseconds for new, old in pairs)
        print(f"{precision}: {faster:.2f} times the sentences, one sentence {sooner:.2f} times as fast")


def _measure(
    trained: Seq2Seq, precision: Precision, arguments: argparse.Namespace, measured: Callable[[Seq2Seq], Figures]
) -> dict[str, list[Figures]]:
    models: dict[str, Seq2Seq] = {}
    found: dict[str, list[Figures]] = {way: [] for way in WAYS}
    for turn in range(arguments.repeats + 1):
        for way, within in WAYS.items():
            with within():
                if way not in models:
                    models[way] = prepare(trained, precision).model
                figures = measured(models[way])
            if turn:  # the first warms up
                found[way].append(figures)
    return found


def _round(limit: LengthLimit, sources: list[list[int]], arguments: argparse.Namespace, model: Seq2Seq) -> Figures:
    options = SearchOptions(beam_size=arguments.beam_size)
    budget = arguments.batch * arguments.beam_size * (max(map(len, sources)) + 1)
    began = time.perf_counter()
    translate(model, sources, options, limit, budget)
    together = time.perf_counter()
    for source in sources[: arguments.singles]:
        translate(model, [source], options, limit)
    return Figures(len(sources) / (together - began), (time.perf_counter() - together) * 1000 / arguments.singles)


if __name__ == "__main__":
    main()
