"""What the beam search itself costs a step, everything but the model: CPU seconds of one thread.

python -m tests.bench.bench_search

The model's step is stood in for by stored logits and the same state, and its time is not counted. Beside each figure
stands the floor: one exponential for each logit, which the log-probabilities need. Then the ways to the same end that
were compared, on the logits of as many rows.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from model.config import LengthLimit
from model.decoder import Memory, State
from model.search import BeamSearch, SearchOptions
from model.search.extensions import Columns
from model.seq2seq import Seq2Seq
from tests.bench import machine, shapes

STEPS = 12
SOURCE_PIECES = 14
UNENDING = LengthLimit(cap=10_000, margin=9_000)


class StandIn:
    """Takes the place of a model's step; forgets the time that it took itself."""

    def __init__(self, model: Seq2Seq, rows: int) -> None:
        generator = torch.Generator().manual_seed(3)
        self.logits = torch.randn(rows, model.config.target_vocabulary, generator=generator)
        self.logits[:, model.config.eos] = -30.0  # nothing ends
        self.seconds = 0.0
        model.step = self._step  # type: ignore[assignment, method-assign]

    def _step(self, state: State, token: Tensor, memory: Memory) -> tuple[Tensor, State]:
        began = time.process_time()
        logits = self.logits[: len(token)].roll(int(token[0]), dims=1)
        self.seconds += time.process_time() - began
        return logits, state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shapes.add_shape(parser)
    parser.add_argument("--beam-size", type=int, default=5)
    parser.add_argument("--sentences", type=int, nargs="+", default=[1, 32, 128])
    arguments = parser.parse_args()
    arguments.threads = 1
    model = shapes.build(arguments).eval().requires_grad_(False)
    print(machine.describe(), machine.load(), sep=", ")
    print(f"{shapes.describe(model)}, float32; beam {arguments.beam_size}")
    for sentences in arguments.sentences:
        rows = sentences * arguments.beam_size
        step = own_seconds(model, sentences, arguments.beam_size, arguments.repeats)
        floor = cpu_seconds(torch.randn(rows, arguments.vocabulary).exp, arguments.repeats)
        print(f"{sentences:4d} sentences: {step * 1e6:8.0f} us a step, floor {floor * 1e6:8.0f} us")
        logits = torch.randn(sentences, arguments.beam_size * arguments.vocabulary)
        for name, way in ways(logits, arguments.beam_size).items():
            print(f"    {name}: {cpu_seconds(way, arguments.repeats) * 1e6:.0f} us")


def ways(logits: Tensor, beam_size: int) -> dict[str, Callable[[], object]]:
    """Normalisation and choice over ``logits`` (B, K * V), each by itself."""
    rows = logits.view(logits.shape[0] * beam_size, -1)
    own = rows.clone()
    chunk = Columns(rows.shape[1], 0, torch.empty(0)).chunk
    chunks = rows[:, : rows.shape[1] // chunk * chunk].reshape(-1, chunk)
    return {
        "log-softmax into a new array": lambda: torch.log_softmax(rows, dim=-1),
        "log-softmax in place": lambda: torch.log_softmax(own, dim=-1, out=own),
        "maximum, exponentials and their sum": lambda: torch.logsumexp(rows, dim=-1),
        "best of all extensions at once": lambda: logits.topk(2 * beam_size + 1, dim=1),
        "maxima of chunks": lambda: chunks.amax(dim=1),
    }


@torch.inference_mode()
def own_seconds(model: Seq2Seq, sentences: int, beam_size: int, repeats: int) -> float:
    """Median seconds of a step of ``sentences`` sentences, without those of the model."""
    stand_in = StandIn(model, sentences * beam_size)
    search = BeamSearch(model, UNENDING)
    source = list(range(4, 4 + SOURCE_PIECES))
    search.admit([source] * sentences, [SearchOptions(beam_size=beam_size)] * sentences)
    for _ in range(3):
        search.step()
    figures = []
    for _ in range(repeats):
        stand_in.seconds, began = 0.0, time.process_time()
        for _ in range(STEPS):
            search.step()
        figures.append((time.process_time() - began - stand_in.seconds) / STEPS)
    return statistics.median(figures)


def cpu_seconds(work: Callable[[], object], repeats: int) -> float:
    """Median CPU seconds of ``work``."""
    figures = []
    for _ in range(repeats + 1):
        began = time.process_time()
        work()
        figures.append(time.process_time() - began)
    return statistics.median(figures[1:])


if __name__ == "__main__":
    main()
