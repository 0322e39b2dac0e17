"""Steps without a finite loss or gradient: what is said of one, and when there were too many."""

from __future__ import annotations

from pathlib import Path

from training.config import Recipe
from training.readout import StepFigures
from training.state import state_file


class TrainingError(Exception):
    """The run cannot go on."""


def describe(found: StepFigures) -> str:
    """What was not finite."""
    return f"loss {found.loss:.4g}, gradient norm {found.norm:.4g}"


def too_many(recipe: Recipe, run_folder: Path, step: int, found: StepFigures, saved_step: int | None) -> TrainingError:
    """The error that ends a run at ``step``; ``saved_step`` is that of the last state, if there is one."""
    config = recipe.training
    if saved_step is None:
        start = "No state had been saved yet: start again with"
    else:
        start = f"The last good state is that of step {saved_step}, {state_file(run_folder)}: go on with --resume and"
    ways = [
        f"a lower training.learning_rate (now {config.learning_rate:g})",
        f"a lower training.clip_norm (now {config.clip_norm:g})",
    ]
    if recipe.precision != "float32":
        ways.append("precision: float32")
    return TrainingError(
        f"step {step}: {describe(found)}; this is step {config.nonfinite_patience} in a row without a finite loss and "
        f"gradient, and none of them changed the weights. {start} {' or '.join(ways)}"
    )
