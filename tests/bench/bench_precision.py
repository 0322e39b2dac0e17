"""Speed of each precision: the products of a decoder step by every kernel that torch has, and whole steps.

python -m tests.bench.bench_precision            # the reference shape; --threads 1 for the rate of one core

Times are of the process in all its threads, divided by their number, so that a busy machine disturbs them least;
kernels take turns within a repeat. A rate counts each weight as two operations a row. The floor of a step is its
products at the best rate measured for the largest one. "alone" says whether rows came out bit by bit as in a batch.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import get_args

import torch
from torch import Tensor
from torch.nn import functional

from model.int8 import KERNELS, PlainKernel, pack_weights
from model.precision import Precision, prepare, supported
from model.products import Bfloat16Product, Float32Product, Int8Pack
from model.seq2seq import Seq2Seq
from tests.bench import machine, shapes

Work = Callable[[Tensor], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shapes.add_shape(parser)
    parser.add_argument("--rows", type=int, nargs="+", default=[5, 160, 640])
    parser.add_argument("--slow", action="store_true", help="also kernels that many processors have no fast form of")
    arguments = parser.parse_args()
    model = shapes.build(arguments).eval().requires_grad_(False)
    print(f"{machine.describe()}, {machine.load()}; {shapes.describe(model)}")
    best: dict[int, float] = {}
    with torch.inference_mode():
        for inputs, outputs in _products(arguments):
            candidates = _candidates(torch.randn(outputs, inputs) / inputs**0.5, arguments.slow)
            for rows in arguments.rows:
                sample = torch.randn(rows, inputs)
                seconds = _measure({name: partial(work, sample) for name, work in candidates.items()}, arguments)
                print(f"\nproduct ({inputs}, {outputs}), {rows} rows")
                for name, each in seconds.items():
                    rate = 2 * rows * inputs * outputs / each
                    best[rows] = max(best.get(rows, 0.0), rate)
                    alone = "the same" if _same_alone(candidates[name], sample) else "others"
                    print(f"  {name:30} {each * 1e3:8.2f} ms  {rate / 1e9:7.1f} G/s  alone: {alone}")
    _print_steps(model, best, arguments)
    _print_automatic(model)


def _products(arguments: argparse.Namespace) -> list[tuple[int, int]]:
    """Inputs and outputs of the joined gates of both layers, and of the output layer."""
    hidden, embedding = arguments.hidden, arguments.embedding
    return [(embedding + hidden, 4 * hidden), (3 * hidden, 4 * hidden), (embedding, arguments.vocabulary)]


def _candidates(weight: Tensor, slow: bool) -> dict[str, Work]:
    """All ways to multiply by ``weight`` (O, I), with a bias; the project's own, which pack, and torch's others."""
    bias = torch.zeros(len(weight))
    integers, scale = pack_weights(weight)
    found: dict[str, Work] = {
        "float32, addmm": partial(functional.linear, weight=weight, bias=bias),
        "float32, packed oneDNN *": Float32Product(weight, bias),
        "bfloat16, packed oneDNN *": Bfloat16Product(weight, bias),
    }
    if hasattr(torch.ops.mkl, "_mkl_linear"):
        packed = torch.ops.mkl._mkl_reorder_linear_weight(weight, 160)
        found["float32, packed MKL"] = lambda rows: torch.ops.mkl._mkl_linear(rows, packed, weight, bias, 160)
    for kernel in (*KERNELS, PlainKernel):
        try:
            found[f"int8, {kernel.__name__} *"] = Int8Pack(kernel)(weight, bias)
            found[f"int8, {kernel.__name__} *"](torch.randn(2, weight.shape[1]))
        except (RuntimeError, AttributeError):
            found.pop(f"int8, {kernel.__name__} *", None)
    if slow:
        found["bfloat16, linear"] = partial(_bfloat16, weight.bfloat16())
        found["int8, _int_mm"] = lambda rows: torch._int_mm(rows.to(torch.int8), integers.t())
        found["int8 weights only"] = lambda rows: torch._weight_int8pack_mm(rows, integers, scale)
    return found


def _bfloat16(weight: Tensor, rows: Tensor) -> Tensor:
    return functional.linear(rows.bfloat16(), weight)


def _same_alone(work: Work, sample: Tensor) -> bool:
    together = work(sample)
    return all(torch.equal(work(sample[:rows].contiguous()), together[:rows]) for rows in (1, 3))


def _measure(works: dict[str, Callable[[], object]], arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds of each, the median of repeats in turn, after one run to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(arguments.repeats + 1):
        for name, work in works.items():
            began = time.process_time()
            work()
            if repeat:
                seconds[name].append((time.process_time() - began) / arguments.threads)
    return {name: statistics.median(each) for name, each in seconds.items()}


def _print_steps(model: Seq2Seq, best: dict[int, float], arguments: argparse.Namespace) -> None:
    """Whole decoder steps of the model as it was trained and in each precision, and the floor."""
    models = {"as trained": model}
    for precision in get_args(Precision):
        slow = "" if precision in supported() else ", emulated"
        models[f"{precision}{slow}"] = prepare(model, precision).model
    for rows in arguments.rows:
        with torch.inference_mode():
            seconds = _measure({name: _step(each, rows) for name, each in models.items()}, arguments)
        floor = rows * shapes.operations(model).target / best[rows]
        print(f"\ndecoder step, {rows} rows; floor {floor * 1e3:.2f} ms at {best[rows] / 1e9:.0f} G/s")
        for name, each in seconds.items():
            ratio = seconds["as trained"] / each
            print(f"  {name:30} {each * 1e3:8.2f} ms, {ratio:.2f} times as fast, {floor / each:.0%} of the floor")


def _step(model: Seq2Seq, rows: int) -> Callable[[], object]:
    """A step of ``rows`` hypotheses, a sentence each; attention is a small part of it."""
    source = torch.full((rows, 15), model.config.unk)
    memory = model.encode(source, torch.full((rows,), 15))
    return partial(model.step, model.start(memory), torch.full((rows,), model.config.bos), memory)


def _print_automatic(model: Seq2Seq) -> None:
    began = time.perf_counter()
    prepared = prepare(model, "auto")
    seconds = time.perf_counter() - began
    measured = ", ".join(f"{name} {each * 1e3:.2f} ms" for name, each in prepared.measured.items())
    print(f"\nauto: {prepared.precision} ({measured}), chosen in {seconds:.2f} s")


if __name__ == "__main__":
    main()
