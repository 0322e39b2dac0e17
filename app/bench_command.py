"""What ``ferry bench`` does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console

from app.bench import decoding, machine, plot, service, shape, table
from app.bench.report import Report
from app.bench.subject import Sentences, Subject, read_text
from app.settings import Settings
from model.checkpoint import load_checkpoint
from model.config import LengthLimit
from model.search import SearchOptions
from model.seq2seq import Seq2Seq

SINGLES = 40  # sentences translated one at a time, of all lengths
SINGLES_EACH = 8  # and of each length
Say = Callable[[str], None]


class Task(NamedTuple):
    """What to measure, and how it is told."""

    reference: bool  # the reference shape, not a checkpoint
    text: Path | None  # None: random pieces, and outputs of forced length
    beam_size: int | None  # None: the checkpoint's, and 5 for the reference shape
    batches: tuple[int, ...]
    sentences: int
    rounds: int
    load_seconds: float  # 0: no load
    seed: int  # of the arrivals
    json: bool
    plot: Path | None


def run(settings: Settings, task: Task) -> None:
    """Measure, then print tables or JSON and write the plot.

    Raises CheckpointError, TokenizerError, InputError and OSError for what cannot be read or written.
    """
    torch.set_num_threads(settings.thread_count())
    found = measure(settings, task, _say if sys.stderr.isatty() else lambda _: None)
    if task.plot is not None:
        task.plot.write_text(plot.svg(found), encoding="utf-8")
    if task.json:
        print(found.model_dump_json(indent=2))
    else:
        table.show(found, Console(highlight=False, soft_wrap=True))


def measure(settings: Settings, task: Task, say: Say) -> Report:
    """Everything in turn; ``say`` hears what comes next."""
    where = machine.read()
    subject = _reference(task) if task.reference else _checkpoint(settings, task)
    hidden = subject.config.hidden
    say(f"throughput at batch sizes {', '.join(map(str, task.batches))}")
    speeds = decoding.throughput(
        subject,
        task.batches,
        task.sentences,
        task.rounds,
        lambda rows: machine.matrix_rate(rows, hidden, 4 * hidden),
    )
    say("latency of one sentence")
    alone = decoding.latency(subject, subject.sentences.take(SINGLES))
    by_length = [decoding.latency(subject, group) for group in subject.sentences.by_length(SINGLES_EACH)]
    figures = None
    if task.load_seconds:
        say(f"service under load, {task.load_seconds:g} s for the capacity and for each share of it")
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
        sentences_per_second=best.sentences_per_second,
        batch_size=best.batch,
        floor_sentences_per_second=best.floor,
        latency_ms_mean=alone.mean_ms,
        throughput=tuple(speeds),
        latency=alone,
        latency_by_length=tuple(by_length),
        service=figures,
    )


def _reference(task: Task) -> Subject:
    model = shape.build(shape.REFERENCE)
    shape.force_lengths(model)
    return _subject("reference", model, shape.FORCED, SearchOptions(task.beam_size or 5), Sentences(shape.REFERENCE))


def _checkpoint(settings: Settings, task: Task) -> Subject:
    """The first of the checkpoints; without a text its outputs get a length, as those of random pieces mean nothing."""
    loaded = load_checkpoint(settings.checkpoint_folders()[0])
    config, model = loaded.config, loaded.model
    options = SearchOptions(task.beam_size or config.beam_size, length_penalty=config.length_penalty)
    if task.text is not None:
        sentences = Sentences(config.model, read_text(task.text, loaded))
        return _subject(config.name, model, config.length_limit, options, sentences)
    shape.force_lengths(model)
    return _subject(config.name, model, shape.FORCED, options, Sentences(config.model))


def _subject(name: str, model: Seq2Seq, limit: LengthLimit, options: SearchOptions, sentences: Sentences) -> Subject:
    return Subject(name, model, "float32", limit, options, shape.operations(model), sentences)


def _text(subject: Subject, task: Task) -> str:
    pieces = f"{subject.sentences.mean_pieces:.1f} pieces a sentence"
    if task.text is not None:
        return f"{task.text.name}, {pieces}"
    return f"random pieces, {pieces}; end-of-sentence masked, outputs {shape.STRETCH:g} times as long"


def _say(text: str) -> None:
    print(f"measuring: {text}", file=sys.stderr, flush=True)
