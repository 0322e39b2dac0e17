"""What ``ferry translate`` does."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from app.files import Input, Output, opened
from app.languages import LanguagePairs
from app.offline import OfflineTranslator
from app.settings import Settings, SettingsError
from app.translator import LanguagePair, TranslationOptions
from model.checkpoint import Checkpoint, load_checkpoint, read_config
from model.precision import Precision

LINES = 256  # translated together, and a step of the progress bar


class Task(NamedTuple):
    """What to translate, and what comes of it."""

    source: Path | None  # None or - for standard input
    output: Path | None  # None for standard output
    document: bool  # one text, split into sentences; else a line is a segment
    json: bool
    progress: bool
    options: TranslationOptions
    precision: Literal["auto"] | Precision


def run(settings: Settings, source: str | None, target: str | None, task: Task) -> None:
    """Translate all of the input between two languages; None where the pairs that are loaded leave no choice.

    Raises InputError, SettingsError, UnsupportedPairError, OSError, CheckpointError and TokenizerError.
    """
    torch.set_num_threads(settings.thread_count())
    translator = OfflineTranslator(_choose(settings, source, target), task.options, task.precision)
    with opened(task.source, task.output) as (text, stream), _bar(task.progress) as bar:
        output = Output(stream, task.json, task.options.n_best)
        (_translate_document if task.document else _translate_lines)(translator, text, output, bar)


def _translate_lines(translator: OfflineTranslator, source: Input, output: Output, bar: Progress) -> None:
    progress = bar.add_task("translating", total=source.size)
    lines, number = source.lines(), itertools.count()
    while chunk := list(itertools.islice(lines, LINES)):
        for translation in translator.lines([line.text for line in chunk]):
            output.line(next(number), translation)
        output.stream.flush()
        bar.advance(progress, sum(line.size for line in chunk))


def _translate_document(translator: OfflineTranslator, source: Input, output: Output, bar: Progress) -> None:
    progress = bar.add_task("translating", total=None)
    text = source.document()
    output.document(translator.document(text, lambda done, total: bar.update(progress, completed=done, total=total)))


def _choose(settings: Settings, source: str | None, target: str | None) -> Checkpoint:
    """The checkpoint for the languages, as far as they are needed to tell which one."""
    folders = {}
    for folder in settings.checkpoint_folders():
        config = read_config(folder)
        folders[LanguagePair(config.source, config.target, config.name)] = folder
    found = LanguagePairs(list(folders)).among(source, target)
    if len(found) > 1:
        raise SettingsError(f"there are several language pairs, {_listed(found)}: choose with --source and --target")
    if not found:
        given = f"from {source!r}" if source is not None else f"to {target!r}"
        raise SettingsError(f"no model translates {given}; the pairs there are: {_listed(folders)}")
    return load_checkpoint(folders[found[0]])


def _listed(pairs: Iterable[LanguagePair]) -> str:
    return ", ".join(map(str, pairs))


def _bar(visible: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, *times, console=Console(stderr=True), disable=not visible)
