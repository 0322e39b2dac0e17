"""``evaluate``: translate test sets and score them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from model.checkpoint import SUMS
from training.commands.shared import (
    AsJson,
    DeviceName,
    DeviceOption,
    Dump,
    Overrides,
    PrecisionOption,
    Threads,
    mendable_errors,
    note,
    resolve,
)
from training.config import Recipe, ShortlistConfig
from training.corpus_config import CorpusConfig
from training.device import pick_device
from training.evaluate import EvaluationError, evaluate
from training.run_folders import RECIPE_FILE
from training.scores import score_entry, score_table, write_results
from training.shortlist import learn_shortlist
from training.system import System, combine, open_checkpoint, open_run

EVALUATION_FOLDER = "evaluation"


def evaluate_command(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="RECIPE|CHECKPOINT...", help="Recipes of runs, checkpoint folders; several: ensemble."),
    ],
    source: Annotated[Path | None, typer.Option(help="Text to translate, also .gz, .xz, .zst.")] = None,
    reference: Annotated[Path | None, typer.Option(help="Its translation, line by line.")] = None,
    as_json: AsJson = False,
    output: Annotated[Path | None, typer.Option(help="Folder for hypotheses and scores.json.")] = None,
    beam_size: Annotated[int | None, typer.Option(min=1, help="Default: the recipe's or checkpoint's.")] = None,
    alpha: Annotated[float | None, typer.Option(min=0, max=5, help="Of the length penalty; default as above.")] = None,
    device: DeviceOption = "auto",
    threads: Threads = None,
    precision: PrecisionOption = "float32",
    shortlist: Annotated[
        bool, typer.Option("--shortlist", help="Keep to the vocabulary shortlist, of several the first's.")
    ] = False,
    overrides: Overrides = None,
    dump: Dump = False,
) -> None:
    """Translate test sets by beam search and score them with sacreBLEU.

    A RECIPE is evaluated with the best weights of its run, on its test sets unless --source and --reference name
    another. A CHECKPOINT needs --source and --reference. Several, in any mixture, decode as one: by the mean of their
    probabilities, with the search options and the test sets of the first, and nothing is written without --output.
    With --shortlist a CHECKPOINT's own is used; a RECIPE's is learned as export would.
    """
    with mendable_errors():
        corpora = _corpus(source, reference)
        recipes = [None if _is_checkpoint(path) else resolve(path, overrides, dump) for path in paths]
        if (recipes[0] is None and not corpora) or (not any(recipes) and (overrides or dump)):
            raise EvaluationError("a checkpoint is evaluated with --source and --reference, and has no --set or --dump")
        if recipes[0] is not None and not corpora:
            corpora = recipes[0].data.test
            output = output or (recipes[0].folder / EVALUATION_FOLDER if len(paths) == 1 else None)
        limited = [shortlist] + [False] * (len(paths) - 1)
        system = combine(list(map(_open, paths, recipes, [device] * len(paths), limited)))
        if threads is not None:
            torch.set_num_threads(threads)
        score_corpora(system.with_search(beam_size, alpha).in_precision(precision), corpora, output, as_json)


def score_corpora(system: System, corpora: Sequence[CorpusConfig], output: Path | None, as_json: bool) -> None:
    if not corpora:
        raise EvaluationError("the recipe names no test set; add data.test, or give --source and --reference")
    results = [evaluate(system, corpus) for corpus in corpora]
    if output is not None:
        write_results(results, system.options, system.language, output)
        note(f"hypotheses and scores: {output}")
    if not as_json:
        Console().print(score_table(results, system.options))
        return
    entries = [score_entry(result, system.options) for result in results]
    typer.echo(json.dumps(entries[0] if len(entries) == 1 else entries, indent=2, ensure_ascii=False))


def _is_checkpoint(path: Path) -> bool:
    """Whether ``path`` is a checkpoint rather than a recipe. Raises EvaluationError where it is the folder of a run."""
    run = path / RECIPE_FILE
    if run.is_file() and not (path / SUMS).is_file():
        raise EvaluationError(f"{path} is the folder of a run; name its recipe, {run}, or a checkpoint")
    return path.is_dir()


def _open(path: Path, recipe: Recipe | None, device: DeviceName, shortlist: bool) -> System:
    if recipe is None:
        return open_checkpoint(path, pick_device(device), shortlist=shortlist)
    run = open_run(recipe, recipe.folder)
    if not shortlist:
        return run.system
    learned = learn_shortlist(run.train, run.system.tokenizers, recipe.export.shortlist or ShortlistConfig())
    return run.system._replace(shortlist=learned.to(run.model.device))


def _corpus(source: Path | None, reference: Path | None) -> tuple[CorpusConfig, ...]:
    if (source is None) != (reference is None):
        raise EvaluationError("--source and --reference go together: the text and its translation")
    return () if source is None else (CorpusConfig(source=source, target=reference),)
