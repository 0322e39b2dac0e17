"""From a recipe to a checkpoint: ``tokenizer``, ``fit`` and ``export`` are the steps, ``run`` is all of them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import typer

from model.search import SearchOptions
from training.commands.evaluate import EVALUATION_FOLDER, score_corpora
from training.commands.shared import (
    INTERRUPTED,
    Dump,
    Overrides,
    Overwrite,
    RecipePath,
    Resume,
    mendable_errors,
    note,
    notes,
    resolve,
)
from training.config import Recipe
from training.device import resolve_device
from training.distributed import first_process, started_again
from training.export import export
from training.fit_record import FitRecord
from training.prepare import TOKENIZER_FOLDER, make_tokenizers
from training.run_processes import working_in
from training.scores import score_table
from training.state import StateError, state_file
from training.system import open_run
from training.trainer import fit
from training.transfer import require_origin
from training.word_distillation import require_teachers


def tokenizer_command(recipe: RecipePath, overrides: Overrides = None, dump: Dump = False) -> None:
    """Train the tokenizers on the recipe's cleaned training text."""
    with mendable_errors():
        loaded = resolve(recipe, overrides, dump)
        _require_models(loaded, begins=True)
        with _working(loaded):
            _tokenizer(loaded)


def fit_command(
    recipe: RecipePath,
    overrides: Overrides = None,
    dump: Dump = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Train the model; anew, or with --resume from where an earlier fit stopped."""
    with mendable_errors():
        loaded = resolve(recipe, overrides, dump)
        _guard(loaded, resume, overwrite)
        with _working(loaded):
            _guard(loaded, resume, overwrite)
            _fit(loaded, resume)


def export_command(recipe: RecipePath, overrides: Overrides = None, dump: Dump = False) -> None:
    """Write the checkpoint of a trained run, with its scores and its card."""
    with mendable_errors():
        loaded = resolve(recipe, overrides, dump)
        with _working(loaded) if loaded.folder.is_dir() else nullcontext():
            _export(loaded, recipe.name)


def run_command(
    recipe: RecipePath,
    overrides: Overrides = None,
    dump: Dump = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """All of it: tokenizer, fit, evaluate, export. With --resume, what is done already is kept."""
    with mendable_errors():
        loaded = resolve(recipe, overrides, dump)
        _guard(loaded, resume, overwrite)
        with _working(loaded):
            _guard(loaded, resume, overwrite)
            if not (resume and (loaded.folder / TOKENIZER_FOLDER).is_dir()):
                _tokenizer(loaded)
            _fit(loaded, resume and state_file(loaded.folder).is_file())
            if loaded.data.test:
                system = open_run(loaded, loaded.folder).system
                score_corpora(system, loaded.data.test, loaded.folder / EVALUATION_FOLDER, as_json=False)
            _export(loaded, recipe.name)


def _tokenizer(recipe: Recipe) -> None:
    tokenizers = make_tokenizers(recipe, recipe.folder)
    sizes = dict.fromkeys((tokenizers.source.vocabulary_size, tokenizers.target.vocabulary_size))
    note(f"tokenizer: {' and '.join(map(str, sizes))} pieces, in {recipe.folder / TOKENIZER_FOLDER}")


def _working(recipe: Recipe) -> AbstractContextManager[None]:
    """While a command writes into the run's folder no other may. Of several ranks only the first one writes."""
    return working_in(recipe.folder, note) if first_process() else nullcontext()


def _guard(recipe: Recipe, resume: bool, overwrite: bool) -> None:
    """Hours of training are not thrown away by a command typed twice.

    Asked before the folder is locked, so that a mistake leaves nothing behind, and after it, as another command may
    have ended in between.
    """
    path = state_file(recipe.folder)
    goes_on = path.exists() and (resume or started_again())
    if path.exists() and not (goes_on or overwrite):
        raise StateError(f"{path} holds an earlier run; go on from it with --resume, or start anew with --overwrite")
    _require_models(recipe, begins=not goes_on)


def _require_models(recipe: Recipe, begins: bool) -> None:
    """Other runs' models are looked for before tokenizers and corpora are made, which takes hours of a large corpus.

    A run that goes on has taken over the weights of ``init_from`` already; it goes on learning from its teachers.
    """
    config = recipe.training
    if begins and config.init_from is not None:
        require_origin(config.init_from)
    if config.word_distillation is not None:
        require_teachers(config.word_distillation, recipe.data)


def _fit(recipe: Recipe, resume: bool) -> None:
    result = fit(recipe, resume=resume, run_folder=recipe.folder)
    if not first_process():
        raise typer.Exit(INTERRUPTED if result.interrupted else 0)
    record = FitRecord(**result._asdict(), device=str(resolve_device(recipe)))
    record.save(recipe.folder)
    note(
        f"fit: {result.steps:,} steps, {result.target_tokens:,} target pieces, {result.seconds / 60:.1f} minutes; "
        f"best dev BLEU {result.best_score:.2f} at step {result.best_step:,}"
        + (f", the mean of {result.best_mean_of} validations' weights" if result.best_mean_of else "")
    )
    if result.skipped:
        note(f"{result.skipped:,} steps were skipped, for a loss or gradient that was not finite")
    if result.interrupted:
        note("stopped by a signal, the training state is saved: go on with --resume")
        raise typer.Exit(INTERRUPTED)


def _export(recipe: Recipe, recipe_name: str) -> None:
    exported = export(recipe, recipe.folder, recipe_name, note)
    if exported.results:
        options = SearchOptions(exported.config.beam_size, length_penalty=exported.config.length_penalty)
        notes.print(score_table(exported.results, options))
    note(f"checkpoint: {exported.folder}")
