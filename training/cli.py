"""From a recipe to a checkpoint, in one command (run) or step by step."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from rich.console import Console

from model.checkpoint import CheckpointError
from model.search import SearchOptions
from tokenizer.normalize import InvalidTextError
from tokenizer.subword import TokenizerError
from training.config import Recipe
from training.corpus_config import CorpusConfig
from training.device import DeviceError, pick_device, resolve_device
from training.evaluate import EvaluationError, System, evaluate, open_checkpoint, open_run
from training.export import ExportError, export
from training.fit_record import FitRecord, FitRecordError
from training.metrics import MetricsError
from training.prepare import TOKENIZER_FOLDER, make_tokenizers
from training.reading import CorpusError
from training.recipe_file import RecipeError, dump_recipe, load_recipe
from training.scores import score_entry, score_table, write_results
from training.state import StateError, state_file
from training.trainer import TrainingError, fit

EVALUATION_FOLDER = "evaluation"
INTERRUPTED = 130  # exit status after SIGINT or SIGTERM
MENDABLE = (
    RecipeError,
    CorpusError,
    TokenizerError,
    InvalidTextError,
    StateError,
    TrainingError,
    DeviceError,
    MetricsError,
    FitRecordError,
    EvaluationError,
    ExportError,
    CheckpointError,
    OSError,
)

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)
notes = Console(stderr=True)

DeviceName = Literal["auto", "cpu", "cuda"]
RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe, a YAML file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key, such as training.max_steps=100. Repeatable."),
]
Dump = Annotated[bool, typer.Option("--dump", help="Print the resolved recipe and do nothing else.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the saved training state.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Start anew although a training state is saved.")]


@app.command("tokenizer")
def tokenizer_command(recipe: RecipePath, overrides: Overrides = None, dump: Dump = False) -> None:
    """Train the tokenizers on the recipe's cleaned training text."""
    with _errors():
        _tokenizer(_load(recipe, overrides, dump))


@app.command("fit")
def fit_command(
    recipe: RecipePath,
    overrides: Overrides = None,
    dump: Dump = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Train the model; anew, or with --resume from where an earlier fit stopped."""
    with _errors():
        loaded = _load(recipe, overrides, dump)
        _guard(loaded, resume, overwrite)
        _fit(loaded, resume)


@app.command("export")
def export_command(recipe: RecipePath, overrides: Overrides = None, dump: Dump = False) -> None:
    """Write the checkpoint of a trained run, with its scores and its card."""
    with _errors():
        _export(_load(recipe, overrides, dump), recipe.name)


@app.command("run")
def run_command(
    recipe: RecipePath,
    overrides: Overrides = None,
    dump: Dump = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """All of it: tokenizer, fit, evaluate, export. With --resume, what is done already is kept."""
    with _errors():
        loaded = _load(recipe, overrides, dump)
        _guard(loaded, resume, overwrite)
        if not (resume and (loaded.folder / TOKENIZER_FOLDER).is_dir()):
            _tokenizer(loaded)
        _fit(loaded, resume and state_file(loaded.folder).is_file())
        if loaded.data.test:
            system = open_run(loaded, loaded.folder).system
            _evaluate(system, loaded.data.test, loaded.folder / EVALUATION_FOLDER, as_json=False)
        _export(loaded, recipe.name)


@app.command("evaluate")
def evaluate_command(
    path: Annotated[Path, typer.Argument(metavar="RECIPE|CHECKPOINT", help="Recipe of a run, or checkpoint folder.")],
    source: Annotated[Path | None, typer.Option(help="Text to translate, also .gz, .xz, .zst.")] = None,
    reference: Annotated[Path | None, typer.Option(help="Its translation, line by line.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, nothing else, to standard output.")] = False,
    output: Annotated[Path | None, typer.Option(help="Folder for hypotheses and scores.json.")] = None,
    beam_size: Annotated[int | None, typer.Option(min=1, help="Default: the recipe's or checkpoint's.")] = None,
    alpha: Annotated[float | None, typer.Option(min=0, max=5, help="Of the length penalty; default as above.")] = None,
    device: Annotated[DeviceName, typer.Option(help="Of a CHECKPOINT; a recipe names its own.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads that torch computes with.")] = None,
    overrides: Overrides = None,
    dump: Dump = False,
) -> None:
    """Translate test sets by beam search and score them with sacreBLEU.

    A RECIPE is evaluated with the best weights of its run, on its test sets unless --source and --reference name
    another. A CHECKPOINT needs --source and --reference.
    """
    with _errors():
        corpora = _corpus(source, reference)
        if path.is_dir():
            if overrides or dump or not corpora:
                raise EvaluationError(
                    "a checkpoint is evaluated with --source and --reference, and has no --set or --dump"
                )
            system = open_checkpoint(path, pick_device(device))
        else:
            recipe = _load(path, overrides, dump)
            system = open_run(recipe, recipe.folder).system
            output = output or (None if corpora else recipe.folder / EVALUATION_FOLDER)
            corpora = corpora or recipe.data.test
        if threads is not None:
            torch.set_num_threads(threads)
        _evaluate(_with_search(system, beam_size, alpha), corpora, output, as_json)


def main() -> None:
    """The command ``ferry-train``."""
    app()


@contextmanager
def _errors() -> Iterator[None]:
    """What a person can mend ends the command with a sentence; anything else is a fault of ours and shows its trace."""
    try:
        yield
    except MENDABLE as error:
        notes.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


def _load(path: Path, overrides: list[str] | None, dump: bool) -> Recipe:
    recipe = load_recipe(path, overrides or [])
    if dump:
        typer.echo(dump_recipe(recipe), nl=False)
        raise typer.Exit
    return recipe


def _tokenizer(recipe: Recipe) -> None:
    tokenizers = make_tokenizers(recipe, recipe.folder)
    sizes = dict.fromkeys((tokenizers.source.vocabulary_size, tokenizers.target.vocabulary_size))
    _note(f"tokenizer: {' and '.join(map(str, sizes))} pieces, in {recipe.folder / TOKENIZER_FOLDER}")


def _guard(recipe: Recipe, resume: bool, overwrite: bool) -> None:
    """Hours of training are not thrown away by a command typed twice."""
    path = state_file(recipe.folder)
    if path.exists() and not (resume or overwrite):
        raise StateError(f"{path} holds an earlier run; go on from it with --resume, or start anew with --overwrite")


def _fit(recipe: Recipe, resume: bool) -> None:
    result = fit(recipe, resume=resume, run_folder=recipe.folder)
    record = FitRecord(**result._asdict(), device=str(resolve_device(recipe)))
    record.save(recipe.folder)
    _note(
        f"fit: {result.steps:,} steps, {result.target_tokens:,} target pieces, {result.seconds / 60:.1f} minutes; "
        f"best dev BLEU {result.best_score:.2f} at step {result.best_step:,}"
    )
    if result.interrupted:
        _note("stopped by a signal, the training state is saved: go on with --resume")
        raise typer.Exit(INTERRUPTED)


def _export(recipe: Recipe, recipe_name: str) -> None:
    exported = export(recipe, recipe.folder, recipe_name, _note)
    if exported.results:
        options = SearchOptions(exported.config.beam_size, length_penalty=exported.config.length_penalty)
        notes.print(score_table(exported.results, options))
    _note(f"checkpoint: {exported.folder}")


def _evaluate(system: System, corpora: Sequence[CorpusConfig], output: Path | None, as_json: bool) -> None:
    if not corpora:
        raise EvaluationError("the recipe names no test set; add data.test, or give --source and --reference")
    results = [evaluate(system, corpus) for corpus in corpora]
    if output is not None:
        write_results(results, system.options, system.language, output)
        _note(f"hypotheses and scores: {output}")
    if not as_json:
        Console().print(score_table(results, system.options))
        return
    entries = [score_entry(result, system.options) for result in results]
    typer.echo(json.dumps(entries[0] if len(entries) == 1 else entries, indent=2, ensure_ascii=False))


def _corpus(source: Path | None, reference: Path | None) -> tuple[CorpusConfig, ...]:
    if (source is None) != (reference is None):
        raise EvaluationError("--source and --reference go together: the text and its translation")
    return () if source is None else (CorpusConfig(source=source, target=reference),)


def _with_search(system: System, beam_size: int | None, alpha: float | None) -> System:
    options = system.options
    if beam_size is not None:
        options = options._replace(beam_size=beam_size)
    if alpha is not None:
        options = options._replace(length_penalty=options.length_penalty.model_copy(update={"alpha": alpha}))
    return system._replace(options=options)


def _note(text: str) -> None:
    notes.print(text, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
