"""Decoding speed: sentences a second of the beam search, in batches and one at a time.

python -m tests.bench.bench_decoding            # the reference shape, random weights, forced lengths
python -m tests.bench.bench_decoding --precision int8
python -m tests.bench.bench_decoding --checkpoint app/checkpoints/en-de --source FILE

With random weights every output has 1.2 times the pieces of its source, because end-of-sentence is ruled out before
that: the work does not depend on the weights. With a checkpoint the lengths are what the model decides.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from functools import partial
from pathlib import Path
from typing import get_args

import torch

from model.checkpoint import load_checkpoint
from model.config import LengthLimit
from model.precision import Precision, prepare
from model.search import BeamSearch, SearchOptions, translate
from model.seq2seq import Seq2Seq
from tests.bench import machine, shapes
from tokenizer.subword import load_tokenizers
from training.reading import read_lines

STRETCH = 1.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shapes.add_shape(parser)
    add_subject(parser)
    choices = ("auto", *get_args(Precision))
    parser.add_argument("--precision", choices=choices, help="prepare the model; without it, as it was trained")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    trained, limit, sources = subject(arguments)
    prepared = prepare(trained, arguments.precision) if arguments.precision else None
    model = prepared.model if prepared else trained
    options = SearchOptions(beam_size=arguments.beam_size)
    pieces = sum(map(len, sources)) / len(sources)
    print(machine.describe(), machine.load(), sep=", ")
    precision = prepared.precision if prepared else "as trained"
    print(f"{shapes.describe(trained)}, {precision}; beam {arguments.beam_size}; {len(sources)} of {pieces:.1f} pieces")
    batched = machine.measure(lambda: _in_batches(model, sources, options, limit, arguments.batch), arguments.repeats)
    print(f"batch {arguments.batch}: {len(sources) / batched.median:.1f} sentences/s")
    budget = arguments.batch * arguments.beam_size * (max(map(len, sources)) + 1)
    for lanes in sorted({1, arguments.threads}):
        refilled = machine.measure(
            partial(translate, model, sources, options, limit, budget, None, lanes), arguments.repeats
        )
        rate = len(sources) / refilled.median
        print(f"batch {arguments.batch}, refilled as sentences leave, lanes: {lanes}: {rate:.1f} sentences/s")
    singles = _one_by_one(model, sources[: max(20, arguments.sentences // 8)], options, limit)
    quantiles = statistics.quantiles(singles, n=20)
    mean = statistics.mean(singles)
    print(f"batch 1: {1 / mean:.1f} sentences/s, mean {mean * 1e3:.1f} ms, p95 {quantiles[-1] * 1e3:.1f} ms")
    if not arguments.checkpoint:
        _print_floor(trained, pieces, arguments)


def add_subject(parser: argparse.ArgumentParser) -> None:
    """What is translated, in which batches."""
    parser.add_argument("--beam-size", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32, help="sentences translated together")
    parser.add_argument("--sentences", type=int, default=320)
    parser.add_argument("--checkpoint", type=Path, help="use its model and tokenizer")
    parser.add_argument("--source", type=Path, help="text, a sentence a line, also .xz; needs --checkpoint")


def subject(arguments: argparse.Namespace) -> tuple[Seq2Seq, LengthLimit, list[list[int]]]:
    """The model, as it was trained, its length limit and the sources."""
    trained, limit, sources = _checkpoint(arguments) if arguments.checkpoint else _random(arguments)
    return trained, limit, list(itertools.islice(itertools.cycle(sources), arguments.sentences))


def _random(arguments: argparse.Namespace) -> tuple[Seq2Seq, LengthLimit, list[list[int]]]:
    model = shapes.build(arguments).eval().requires_grad_(False)
    model.output_bias[model.config.eos] = -1e9
    generator = torch.Generator().manual_seed(2)
    # Lengths as in captions: 14 pieces on average.
    lengths = torch.normal(14.0, 4.0, (arguments.sentences,), generator=generator).round().clamp(5, 40).int().tolist()
    sources = [torch.randint(4, arguments.vocabulary, (size,), generator=generator).tolist() for size in lengths]
    return model, LengthLimit(ratio_mean=STRETCH, ratio_deviation=0.0, margin=0), sources


def _checkpoint(arguments: argparse.Namespace) -> tuple[Seq2Seq, LengthLimit, list[list[int]]]:
    loaded = load_checkpoint(arguments.checkpoint)
    subword = load_tokenizers(arguments.checkpoint).source
    sources = [pieces for pieces in map(subword.encode, read_lines(arguments.source)) if pieces]
    return loaded.model, loaded.config.length_limit, sources


def _in_batches(
    model: Seq2Seq, sources: list[list[int]], options: SearchOptions, limit: LengthLimit, batch: int
) -> None:
    """Batches of like length, each begun when the one before has ended."""
    ordered = sorted(sources, key=len)
    for start in range(0, len(ordered), batch):
        search = BeamSearch(model, limit)
        part = ordered[start : start + batch]
        search.admit(part, [options] * len(part))
        while search.active:
            search.step()


def _one_by_one(model: Seq2Seq, sources: list[list[int]], options: SearchOptions, limit: LengthLimit) -> list[float]:
    seconds = []
    for source in [sources[0], *sources]:
        began = time.perf_counter()
        translate(model, [source], options, limit)
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


def _print_floor(model: Seq2Seq, pieces: float, arguments: argparse.Namespace) -> None:
    """What the matrix products alone would take, at the rate measured for one of them in float32."""
    counted, rows = shapes.operations(model), arguments.batch * arguments.beam_size
    needed = pieces * counted.source + STRETCH * pieces * arguments.beam_size * counted.target
    rate = machine.matrix_rate(rows, arguments.hidden, 4 * arguments.hidden)
    print(
        f"floor: {needed / 1e9:.2f} G operations a sentence at {rate / 1e9:.0f} G/s measured for one product of "
        f"{rows} rows: {rate / needed:.0f} sentences/s"
    )


if __name__ == "__main__":
    main()
