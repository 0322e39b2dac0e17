"""Use of cores: one thread of the engine with N threads of torch, beside N of the engine with one of torch each.

python -m tests.bench.bench_engine_lanes            # the reference shape, random weights, forced lengths

Both translate the same sentences with the same number of sentences under way in all, in turns, so that whatever else
the machine does meets both alike.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time

import torch

from model.config import LengthLimit
from model.precision import prepare, supported
from model.search import BeamSearch, SearchOptions
from model.seq2seq import Seq2Seq
from tests.bench import machine, shapes

STRETCH = 1.2
Sources = list[list[int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shapes.add_shape(parser)
    parser.add_argument("--beam-size", type=int, default=5)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32, 128], help="sentences under way in all")
    parser.add_argument("--precision", choices=["auto", *supported()], default="auto")
    arguments = parser.parse_args()
    trained = shapes.build(arguments).eval().requires_grad_(False)
    trained.output_bias[trained.config.eos] = -1e9
    model, precision, _ = prepare(trained, arguments.precision)
    print(machine.describe(), machine.load(), sep=", ")
    print(f"{shapes.describe(trained)}, {precision}; beam {arguments.beam_size}; {arguments.threads} cores")
    for batch in arguments.batch:
        sources = _sources(batch, arguments.vocabulary)
        one, many = [], []
        for repeat in range(arguments.repeats + 1):
            measured = _seconds(model, [sources], arguments.threads, arguments.beam_size)
            parts = [part for lane in range(arguments.threads) if (part := sources[lane :: arguments.threads])]
            beside = _seconds(model, parts, 1, arguments.beam_size)
            if repeat:  # the first warms up
                one.append(measured)
                many.append(beside)
        _print(batch, one, many)


def _print(batch: int, one: list[float], many: list[float]) -> None:
    ratio = statistics.median(first / second for first, second in zip(one, many, strict=True))
    print(
        f"{batch} sentences: one lane {batch / statistics.median(one):.1f} sentences/s (best {batch / min(one):.1f}), "
        f"lanes of one thread {batch / statistics.median(many):.1f} (best {batch / min(many):.1f}), "
        f"median ratio {ratio:.2f}"
    )


def _sources(count: int, vocabulary: int) -> Sources:
    generator = torch.Generator().manual_seed(2)
    lengths = torch.normal(14.0, 4.0, (count,), generator=generator).round().clamp(5, 40).int().tolist()
    return [torch.randint(4, vocabulary, (size,), generator=generator).tolist() for size in lengths]


def _seconds(model: Seq2Seq, parts: list[Sources], threads: int, beam_size: int) -> float:
    """Wall time until every part is translated, each by an own thread that computes on ``threads`` threads."""
    ready = threading.Barrier(len(parts) + 1)

    def work(sources: Sources) -> None:
        torch.set_num_threads(threads)  # of this thread only: OpenMP keeps the number for each thread by itself
        search = BeamSearch(model, LengthLimit(ratio_mean=STRETCH, ratio_deviation=0.0, margin=0))
        ready.wait()
        search.admit(sources, [SearchOptions(beam_size=beam_size)] * len(sources))
        while search.active:
            search.step()

    lanes = [threading.Thread(target=work, args=(part,)) for part in parts]
    for lane in lanes:
        lane.start()
    ready.wait()
    began = time.perf_counter()
    for lane in lanes:
        lane.join()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
