"""A finished run becomes a checkpoint: the best weights, the tokenizers, and a card with its own scores."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from model.checkpoint import DTYPES, SUMS, CheckpointConfig, Provenance, save_checkpoint
from model.shortlist import Shortlist
from training.card import CARD, render_card
from training.config import Recipe
from training.corpus import Corpus
from training.evaluate import Result, evaluate
from training.fit_record import FitRecord
from training.recipe_file import recipe_sha256
from training.shortlist import learn_shortlist, summarize
from training.system import Run, System, open_checkpoint, open_run
from training.transfer import inherited_data
from training.tuning import tune
from training.word_distillation import load_taught


class ExportError(Exception):
    """The run cannot become the checkpoint that the recipe asks for."""


class Exported(NamedTuple):
    """A written checkpoint."""

    folder: Path
    config: CheckpointConfig
    results: list[Result]  # of the checkpoint as stored, on the recipe's test sets


def export(recipe: Recipe, run_folder: Path, recipe_name: str, message: Callable[[str], None]) -> Exported:
    """Writes the checkpoint of a run in ``run_folder``, replacing an older one at its place only when it is whole.

    ``recipe_name`` is the recipe's file name; ``message`` is told what is being done. Raises UnusableSystemError,
    FitRecordError, ExportError, TransferError, WordDistillationError, CorpusError, or OSError where the checkpoint
    cannot be written.
    """
    folder = recipe.export.folder or run_folder / "checkpoint"
    _require_replaceable(folder)
    record = FitRecord.load(run_folder)
    run = open_run(recipe, run_folder)
    if recipe.search.tuning is not None:
        run = run._replace(system=tune(run.system, recipe, recipe.search.tuning, message))
    weights = run.model.state_dict()
    _require_finite(weights, recipe)
    config = _config(recipe, run, _provenance(recipe, record, run.train, recipe_name, _inherited(run_folder)))
    shortlist = _learn_shortlist(recipe, run, message)
    files = run.system.tokenizers.files()
    results = _evaluate_as_stored(recipe, run.system, config, weights, shortlist, run_folder, message)
    evaluations = tuple(result.evaluation(run.system.options) for result in results)
    config = config.model_copy(update={"evaluations": evaluations})
    parameters = sum(parameter.numel() for parameter in run.model.parameters())
    card = render_card(config, recipe.export.card, parameters)
    save_checkpoint(folder, config, weights, {**files, CARD: card.encode()}, shortlist)
    return Exported(folder, config, results)


def _learn_shortlist(recipe: Recipe, run: Run, message: Callable[[str], None]) -> Shortlist | None:
    if recipe.export.shortlist is None:
        return None
    message("learning the vocabulary shortlist")
    return learn_shortlist(run.train, run.system.tokenizers, recipe.export.shortlist)


def _evaluate_as_stored(
    recipe: Recipe,
    system: System,
    config: CheckpointConfig,
    weights: Mapping[str, Tensor],
    shortlist: Shortlist | None,
    run_folder: Path,
    message: Callable[[str], None],
) -> list[Result]:
    """Scores of the very files that will be shipped, rounded weights and all, read back from disk."""
    device = system.model.device.type
    with tempfile.TemporaryDirectory(prefix=".export.", dir=run_folder) as temporary:
        folder = Path(temporary) / "checkpoint"
        save_checkpoint(folder, config, weights, system.tokenizers.files(), shortlist)
        stored = open_checkpoint(folder, device, recipe.search.token_budget)
        results = []
        for corpus in recipe.data.test:
            message(f"translating {corpus.label} with the stored checkpoint")
            results.append(evaluate(stored, corpus))
    return results


def _config(recipe: Recipe, run: Run, provenance: Provenance) -> CheckpointConfig:
    system, shortlist = run.system, recipe.export.shortlist
    return CheckpointConfig(
        name=recipe.export.name or f"{recipe.data.source}-{recipe.data.target}",
        version=recipe.export.version,
        source=recipe.data.source,
        target=recipe.data.target,
        precision=recipe.export.precision,
        model=system.model.config,
        beam_size=system.options.beam_size,
        length_penalty=system.options.length_penalty,
        length_limit=system.length_limit,
        training=provenance,
        shortlist=summarize(run.train, shortlist, provenance.data) if shortlist else None,
    )


def _provenance(
    recipe: Recipe, record: FitRecord, train: Corpus, recipe_name: str, inherited: tuple[str, ...]
) -> Provenance:
    corpora = zip(recipe.data.train, train.report.corpora, strict=True)
    return Provenance(
        ferry_version=_ferry_version(),
        recipe=recipe_name,
        recipe_sha256=recipe_sha256(recipe),
        seed=recipe.seed,
        steps=record.steps,
        target_tokens=record.target_tokens,
        seconds=record.seconds,
        device=record.device,
        data=tuple(
            f"{corpus.label}: {report.kept:,} pairs" + (f" ({corpus.licence})" if corpus.licence else "")
            for corpus, report in corpora
        )
        + inherited,
        licence=recipe.export.licence,
    )


def _inherited(run_folder: Path) -> tuple[str, ...]:
    """What the models were trained on that the run began with, or learned from."""
    taught = load_taught(run_folder)
    return inherited_data(run_folder) + (taught.data if taught else ())


def _require_replaceable(folder: Path) -> None:
    """Saving replaces the whole folder, so whatever is not a checkpoint must not be there."""
    if folder.exists() and not (folder / SUMS).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExportError(f"{folder} exists and is not a checkpoint; name another export.folder, or move it away")


def _require_finite(weights: Mapping[str, Tensor], recipe: Recipe) -> None:
    precision = recipe.export.precision
    for name, tensor in weights.items():
        if not torch.isfinite(tensor.to(DTYPES[precision])).all():
            raise ExportError(f"{name} holds values that {precision} cannot; set export.precision to float32")


def _ferry_version() -> str:
    try:
        return version("ferry-nmt")
    except PackageNotFoundError:
        return "not installed"
