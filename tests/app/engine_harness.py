"""What the engine's tests share: jobs, a running engine, and models whose steps can be held back or fail."""

from __future__ import annotations

import asyncio
import functools
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import structlog
from torch import Tensor

from app.engine import Engine, EngineObserver, Priority, SegmentJob
from app.engine.models import EngineModel, Generation
from app.engine.request import Request
from app.engine.watchdog import exit_process
from model.checkpoint import Checkpoint, load_checkpoint
from model.config import LengthLimit, ModelConfig
from model.decoder import Memory, State
from model.search import Hypothesis, SearchOptions, translate
from model.seq2seq import Seq2Seq

PATIENCE_SECONDS = 60.0
_numbers = itertools.count()

# Unconfigured, structlog prints every local variable of a traceback, tensors too: seconds for each.
structlog.configure(processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()])


@contextmanager
def running(
    checkpoint: Checkpoint,
    *others: Checkpoint,
    queue_tokens: int = 20_000,
    batch_tokens: int = 512,
    batch_rows: int | None = 640,
    lanes: int | None = 1,
    threads: int = 1,
    cache_tokens: int = 0,
    longest_wait_seconds: float | None = None,
    heartbeat_seconds: float = 10.0,
    stuck_seconds: float = 600.0,
    on_stuck: Callable[[], None] = exit_process,
    observer: EngineObserver | None = None,
) -> Iterator[Engine]:
    """An engine that takes work, stopped at the end."""
    engine = Engine(
        {item.config.name: (item.model, item.config.length_limit) for item in (checkpoint, *others)},
        queue_tokens=queue_tokens,
        batch_tokens=batch_tokens,
        threads=threads,
        observer=observer,
        batch_rows=batch_rows,
        lanes=lanes,
        cache_tokens=cache_tokens,
        longest_wait_seconds=longest_wait_seconds,
        heartbeat_seconds=heartbeat_seconds,
        stuck_seconds=stuck_seconds,
        on_stuck=on_stuck,
    )
    engine.start()
    try:
        engine.wait_until_ready(PATIENCE_SECONDS)
        yield engine
    finally:
        engine.stop(0.0)


def job(length: int, seed: int = 0, annotate: bool = False, **options: object) -> SegmentJob:
    """A random segment of the tiny vocabulary."""
    pieces = tuple(random.Random(1000 * seed + length).choices(range(260, 380), k=length))
    return SegmentJob(pieces, SearchOptions(**options), annotate)  # type: ignore[arg-type]


def long_job(steps: int = 30, length: int = 4, seed: int = 0) -> SegmentJob:
    """A segment that needs at least ``steps`` decoding steps."""
    return job(length, seed, prefix=(300,) * steps, max_length=steps + 2)


def long_jobs(count: int, steps: int = 30, length: int = 4) -> list[SegmentJob]:
    """Different segments that need at least ``steps`` decoding steps."""
    return [long_job(steps, length, seed) for seed in range(count)]


@functools.cache
def _tiny_model() -> Seq2Seq:
    return Seq2Seq(ModelConfig(source_vocabulary=8, target_vocabulary=8, embedding=2, hidden=4, heads=1))


def generation(name: str = "en-de") -> Generation:
    """A model to ask for that nobody translates with."""
    return Generation(name, next(_numbers), EngineModel(_tiny_model(), LengthLimit()))


def request(
    *lengths: int,
    model: Generation | None = None,
    priority: Priority = Priority.INTERACTIVE,
    cut_at: float | None = None,
    waiting: list[int] | None = None,
    promised: int = 0,
    loop: asyncio.AbstractEventLoop | None = None,
) -> Request:
    """A request of random segments; without ``loop`` nobody can be waiting for it."""
    jobs = [job(length) for length in lengths]
    if loop is None:
        loop = asyncio.new_event_loop()
        loop.close()
    wanted = model or generation()
    return Request(wanted, jobs, loop, waiting=waiting, promised=promised, priority=priority, cut_at=cut_at)


def alone(checkpoint: Checkpoint, segment: SegmentJob) -> list[Hypothesis]:
    """What the segment translates to by itself."""
    return translate(checkpoint.model, [segment.pieces], segment.options, checkpoint.config.length_limit)[0]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that is about to hold."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, "what the test waits for did not happen"
        await asyncio.sleep(0.005)


class Gate:
    """Holds back the decoding steps of a model while it is closed, and counts them."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.steps = 0
        self._open = threading.Event()
        self._open.set()
        self._step = checkpoint.model.step
        checkpoint.model.step = self._held  # type: ignore[method-assign]

    def close(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def _held(self, state: State, token: Tensor, memory: Memory) -> tuple[Tensor, State]:
        assert self._open.wait(PATIENCE_SECONDS)
        self.steps += 1
        return self._step(state, token, memory)


class Counted:
    """Counts the sentences that a model encodes."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.sentences = 0
        self._encode = checkpoint.model.encode
        checkpoint.model.encode = self._counted  # type: ignore[method-assign]

    def _counted(self, source: Tensor, lengths: Tensor) -> Memory:
        self.sentences += len(source)
        return self._encode(source, lengths)


class Clock:
    """The time by which an engine's requests are cut; it passes when the test says so."""

    def __init__(self, engine: Engine) -> None:
        self.ahead = 0.0
        engine._queue._clock = self

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


class Slowness:
    """Makes every decoding step of a model take some time."""

    def __init__(self, checkpoint: Checkpoint, seconds: float) -> None:
        self._step, self._seconds = checkpoint.model.step, seconds
        checkpoint.model.step = self._slowed  # type: ignore[method-assign]

    def _slowed(self, state: State, token: Tensor, memory: Memory) -> tuple[Tensor, State]:
        time.sleep(self._seconds)
        return self._step(state, token, memory)


def fail_encoding_of(checkpoint: Checkpoint, piece: int) -> None:
    """Make the model fail on every batch of sources that holds ``piece``."""
    encode = checkpoint.model.encode

    def poisoned(source: Tensor, lengths: Tensor) -> Memory:
        if (source == piece).any():
            raise RuntimeError(f"piece {piece} is poison")
        return encode(source, lengths)

    checkpoint.model.encode = poisoned  # type: ignore[method-assign]


def fail_steps_with(checkpoint: Checkpoint, length: int) -> None:
    """Make every step fail in which a source of ``length`` pieces takes part."""
    step = checkpoint.model.step

    def poisoned(state: State, token: Tensor, memory: Memory) -> tuple[Tensor, State]:
        if (memory.mask.sum(dim=1) == length + 1).any():
            raise RuntimeError(f"a source of {length} pieces is poison")
        return step(state, token, memory)

    checkpoint.model.step = poisoned  # type: ignore[method-assign]


def loaded(folder: Path) -> Checkpoint:
    """A model of the test's own, free to be spoilt."""
    return load_checkpoint(folder)


def mixed_jobs(count: int) -> Sequence[SegmentJob]:
    """Segments of many lengths, beams and numbers of hypotheses; short translations, so that it does not take long."""
    choices = ((5, 2), (1, 1), (3, 3))
    return [
        job(1 + number * 7 % 23, number, beam_size=beam_size, n_best=n_best, max_length=2 + number % 6)
        for number, (beam_size, n_best) in zip(range(count), itertools.cycle(choices), strict=False)
    ]
