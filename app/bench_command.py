"""What ``ferry bench`` does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console

from app import logs
from app.bench import decoding, machine, plot, service, shape, table
from app.bench.report import Report
from app.bench.subject import Sentences, Subject, read_text
from app.memory import set_apart
from app.settings import Settings
from model.checkpoint import load_checkpoint
from model.search import SearchOptions

WIDTH = 140  # of tables that go to a file
Say = Callable[[str], None]


class Task(NamedTuple):
    """What to measure, and how it is told."""

    reference: bool  # the reference shape, not a checkpoint
    text: Path | None  # None: random pieces, and outputs of forced length
    beam_size: int | None  # None: the checkpoint's, and 5 for the reference shape
    batches: tuple[int, ...]
    sentences: int
    rounds: int
    singles: int  # sentences translated one at a time: so many of all lengths, and a fifth of that of each length
    load_seconds: float  # 0: no load
    seed: int  # of the arrivals
    json: bool
    plot: Path | None


def run(settings: Settings, task: Task) -> None:
    """Measure, then print tables or JSON and write the plot.

    Raises CheckpointError, TokenizerError, InputError and OSError for what cannot be read or written.
    """
    torch.set_num_threads(settings.thread_count())
    if task.load_seconds:
        logs.configure("warning")  # the engine logs, and standard output is the report's
    found = measure(settings, task, _say if sys.stderr.isatty() else lambda _: None)
    if task.plot is not None:
        task.plot.write_text(plot.svg(found), encoding="utf-8")
    if task.json:
        print(found.model_dump_json(indent=2))
    else:
        table.show(found, Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH))


def measure(settings: Settings, task: Task, say: Say) -> Report:
    """Everything in turn; ``say`` hears what comes next."""
    where = machine.read()
    subject = _reference(settings, task) if task.reference else _checkpoint(settings, task)
    set_apart()  # as the service does
    say(f"throughput at batch sizes {', '.join(map(str, task.batches))}")
    speeds = decoding.throughput(subject, task.batches, task.sentences, task.rounds, settings.thread_count())
    say("latency of one sentence")
    alone = decoding.latency(subject, subject.sentences.take(task.singles))
    by_length = [decoding.latency(subject, group) for group in subject.sentences.by_length(max(1, task.singles // 5))]
    figures = None
    if task.load_seconds:
        say(f"service under load, {task.load_seconds:g} s for the capacity, each share of it and the capacity again")
        figures = service.measure(subject, settings, task.load_seconds, task.seed)
    best = max(speeds, key=lambda row: row.sentences_per_second)
    return Report(
        ferry_version=version("ferry-nmt"),
        machine=where,
        model=subject.name,
        shape=shape.describe(subject.config),
        text=_text(subject, task),
        beam_size=subject.options.beam_size,
        precision=subject.precision,
        precision_ms={name: seconds * 1e3 for name, seconds in subject.measured.items()},
        shortlist=subject.shortlist is not None,
        sentences_per_second=best.sentences_per_second,
        batch_size=best.batch,
        lanes=best.lanes,
        floor_sentences_per_second=best.floor,
        latency_ms_mean=alone.mean_ms,
        throughput=tuple(speeds),
        latency=alone,
        latency_by_length=tuple(by_length),
        service=figures,
    )


def _reference(settings: Settings, task: Task) -> Subject:
    model = shape.build(shape.REFERENCE)
    shape.force_lengths(model)
    options, sentences = SearchOptions(task.beam_size or 5), Sentences(shape.REFERENCE)
    shortlist = shape.shortlist(shape.REFERENCE) if settings.shortlist else None
    return Subject.prepared("reference", model, settings.precision, shape.FORCED, options, sentences, shortlist)


def _checkpoint(settings: Settings, task: Task) -> Subject:
    """The first of the checkpoints; without a text its outputs get a length, as those of random pieces mean nothing."""
    loaded = load_checkpoint(settings.checkpoint_folders()[0])
    config, model = loaded.config, loaded.model
    options = SearchOptions(task.beam_size or config.beam_size, length_penalty=config.length_penalty)
    shortlist = loaded.shortlist if settings.shortlist else None
    if task.text is not None:
        sentences = Sentences(config.model, read_text(task.text, loaded))
        return Subject.prepared(
            config.name, model, settings.precision, config.length_limit, options, sentences, shortlist
        )
    sentences = Sentences(config.model)
    shape.force_lengths(model)
    return Subject.prepared(config.name, model, settings.precision, shape.FORCED, options, sentences, shortlist)


def _text(subject: Subject, task: Task) -> str:
    pieces = f"{subject.sentences.mean_pieces:.1f} pieces a sentence"
    if task.text is not None:
        return f"{task.text.name}, {pieces}"
    return f"random pieces, {pieces}; end-of-sentence masked, outputs {shape.STRETCH:g} times as long"


def _say(text: str) -> None:
    print(f"measuring: {text}", file=sys.stderr, flush=True)
