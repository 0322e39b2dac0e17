"""``tune``: search a recipe's settings."""

from __future__ import annotations

import math
import shlex
from typing import Annotated

import typer

from training.commands.shared import INTERRUPTED, Overrides, RecipePath, mendable_errors, note
from training.run_processes import stop_signals
from training.study import Metric, open_tuning, run_trials
from training.study_report import BEST_FILE, best_trial, write_report


def tune_command(
    recipe: RecipePath,
    trials: Annotated[int, typer.Option(min=1, help="Trials that the study is to have in the end.")],
    timeout: Annotated[float | None, typer.Option(min=0, help="Minutes after which this command stops.")] = None,
    metric: Annotated[Metric, typer.Option(help="On dev: greedy BLEU, or loss.")] = "bleu",
    overrides: Overrides = None,
) -> None:
    """Search the settings in the recipe's section tune with Optuna; every trial is a fit.

    The study is kept in tune/ of the run folder. The same command goes on where it was stopped, and with a larger
    --trials extends the study; several at once share the work. Trials that lag behind on dev are pruned.
    """
    command = ["ferry-train", "tune", str(recipe), "--trials", str(trials), "--metric", metric]
    command += [word for change in overrides or () for word in ("--set", change)]
    with mendable_errors(), stop_signals() as stop:
        tuning = open_tuning(recipe, overrides or [], metric)
        seconds = math.inf if timeout is None else timeout * 60
        try:
            run_trials(tuning, trials, note, lambda: not stop.is_set(), seconds)
        finally:
            report = write_report(tuning, shlex.join(command))
        best = best_trial(tuning.study)
        if best is not None:
            note(f"best: trial {best.number}, dev {metric} {best.value:.4g}: {report.parent / BEST_FILE}")
        typer.echo(report)
        if stop.is_set():
            note("stopped by a signal; the same command goes on")
            raise typer.Exit(INTERRUPTED)
