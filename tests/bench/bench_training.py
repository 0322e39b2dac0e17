"""Training speed: target tokens a second of whole steps (forward, backward, clipping, AdamW, average).

python -m tests.bench.bench_training            # the reference shape
python -m tests.bench.bench_training --vocabulary 6000 --embedding 256 --hidden 256 --batch-tokens 2500
python -m tests.bench.bench_training --precision bfloat16 --profile     # and where a step's time goes
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from model.native import set_aside
from tests.bench import machine, shapes
from training.objective import smoothed_cross_entropy
from training.optimizer import update_average

OPERATORS = 20  # that a profile shows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shapes.add_shape(parser)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--length", type=int, default=18, help="pieces of every source and target")
    choices = ("float32", "bfloat16")
    parser.add_argument("--precision", choices=choices, default="float32", help="bfloat16 as the trainer's autocast")
    besides = parser.add_mutually_exclusive_group()
    besides.add_argument("--beside-plain", action="store_true", help="in turn with torch alone, without the operators")
    besides.add_argument("--profile", action="store_true", help="the operators that take most of a step besides")
    arguments = parser.parse_args()
    step, tokens = training_step(arguments, arguments.precision)
    if arguments.beside_plain:
        _beside_plain(step, tokens, arguments.repeats)
        return
    timing = machine.measure(step, arguments.repeats)
    model = shapes.build(arguments)
    counted = shapes.operations(model)
    # A product's gradient takes two products of the same size.
    needed = 3 * tokens * (counted.source + counted.target)
    rate = machine.matrix_rate(tokens, arguments.hidden, 4 * arguments.hidden, getattr(torch, arguments.precision))
    reached = needed / rate / timing.median
    print(machine.describe(), machine.load(), sep=", ")
    print(
        f"{shapes.describe(model)}, {arguments.precision}; batch of {tokens // arguments.length} x {arguments.length}"
    )
    print(f"step: {timing}")
    print(f"target tokens/s: {tokens / timing.median:,.0f}")
    print(
        f"floor: {needed / 1e9:.0f} G operations at {rate / 1e9:.0f} G/s measured for one product in "
        f"{arguments.precision}: {tokens / (needed / rate):,.0f} target tokens/s, of which {reached:.0%} reached"
    )
    if arguments.profile:
        _print_profile(step, arguments.repeats)


def _print_profile(step: Callable[[], None], steps: int) -> None:
    """Each operator's share of the time, without that of the operators that it calls."""
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        for _ in range(steps):
            step()
    operators = sorted(recorded.key_averages(), key=lambda each: each.self_cpu_time_total, reverse=True)
    total = sum(each.self_cpu_time_total for each in operators)
    for each in operators[:OPERATORS]:
        calls = each.count / steps
        print(f"{each.self_cpu_time_total / total:6.1%}  {each.key}, {calls:.0f} calls a step")


def _beside_plain(step: Callable[[], None], tokens: int, repeats: int) -> None:
    """Both in each round: on a machine that others share only the ratio says something."""

    def plain() -> None:
        with set_aside():
            step()

    for once in (step, plain, step, plain):  # oneDNN compiles its kernels
        once()
    rounds = [(machine.timed(plain), machine.timed(step)) for _ in range(repeats)]
    without, ours = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratio = statistics.median(before / after for before, after in rounds)
    print(machine.describe(), machine.load(), sep=", ")
    print(f"target tokens/s, medians of {repeats} rounds: {tokens / without:,.0f} without the operators,")
    print(f"{tokens / ours:,.0f} with them; median of the ratios {ratio:.2f}")


def training_step(arguments: argparse.Namespace, precision: str = "float32") -> tuple[Callable[[], None], int]:
    """A step of the shape that the flags describe, and the target tokens that it learns from."""
    model = shapes.build(arguments).train()
    average = shapes.build(arguments)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    length = arguments.length
    rows = max(8, arguments.batch_tokens // length // 8 * 8)  # as training.planning cuts them
    source, target = torch.randint(4, arguments.vocabulary, (2, rows, length))
    lengths = torch.full((rows,), length)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            features = model(source, lengths, target)
        weights = model.output_weight(), model.output_bias
        loss = smoothed_cross_entropy(features, *weights, target, smoothing=0.1, pad=model.config.pad)
        (loss.smoothed / loss.positions).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        update_average(average, model, 0.999, 1000)

    return step, rows * length


if __name__ == "__main__":
    main()
