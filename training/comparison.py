"""``compare``: which runs a comparison consists of, and their training, several at a time if asked to.

A run is named by what its fit depends on. So runs that two comparisons have in common are trained once, rows that only
search differently share one fit, and a comparison that was cut off goes on where it stopped.
"""

from __future__ import annotations

import itertools
import os
import shlex
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import yaml

from training.config import Recipe
from training.recipe_file import RecipeError, load_recipe
from training.recipe_keys import full_key
from training.run_folders import INCIDENTAL, evaluation_key, fit_in_folder, fit_key, placed, write_recipe
from training.run_processes import KeepGoing, ProcessError, Stopped, exclusive, run_command
from training.run_results import is_fitted, read_scores

COMPARE_FOLDER = "compare"
BASELINE = "baseline"
STOPPED = "stopped before its end"
_FIXED = INCIDENTAL | {"seed"}


class Row(NamedTuple):
    """A row of the table: the recipe with some keys changed."""

    name: str
    settings: tuple[str, ...] = ()  # key=value, keys in full


class PlannedRun(NamedTuple):
    """One row with one seed."""

    row: Row
    recipe: Recipe  # its folder is the run's own
    evaluation: Path  # folder of its test scores, below the run's

    @property
    def state(self) -> str:
        """How far it has come, in a word."""
        if not is_fitted(self.recipe.folder):
            return "begun" if self.recipe.folder.exists() else "to do"
        return "finished" if self.is_evaluated else "to evaluate"

    @property
    def is_evaluated(self) -> bool:
        return not self.recipe.data.test or read_scores(self.evaluation) is not None


def parse_rows(vary: Sequence[str], named: Sequence[str]) -> list[Row]:
    """The rows of ``--vary KEY=V1,V2`` (their product) and ``--row "NAME: key=value ..."`` (after a baseline).

    Raises RecipeError for an unknown key, one that a comparison does not vary, or one that a row would set twice.
    """
    varied = [_parse_vary(text) for text in vary]
    again = _set_twice([values[0][1] for values in varied])
    if again is not None:
        raise RecipeError(f"--vary is given twice for {again!r}; give all its values at once: {again}=VALUE,VALUE")
    rows = [Row(" ".join(label for label, _ in row), tuple(value for _, value in row)) for row in _product(varied)]
    if named or not rows:
        rows = [Row(BASELINE), *rows, *map(_parse_row, named)]
    names = [row.name for row in rows]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RecipeError(f"two rows are called {twice!r}; each needs its own name")
    return rows


def plan(recipe: Path, overrides: Sequence[str], rows: Sequence[Row], seeds: int, jobs: int) -> list[PlannedRun]:
    """The runs of every row, with ``seeds`` seeds each, counted up from the recipe's own. Raises RecipeError.

    With several ``jobs`` and no ``threads`` in the recipe, the machine's cores are shared out among them.
    """
    first = load_recipe(recipe, overrides)
    shared = first.folder / COMPARE_FOLDER
    threads = first.threads or (max(1, (os.cpu_count() or 1) // jobs) if jobs > 1 else None)
    runs = []
    for row in rows:
        for seed in range(first.seed, first.seed + seeds):
            changed = load_recipe(recipe, [*overrides, *row.settings, f"seed={seed}"])
            folder = shared / fit_key(changed)
            changed = placed(changed, folder).model_copy(update={"threads": threads})
            runs.append(PlannedRun(row, changed, folder / f"evaluation-{evaluation_key(changed)}"))
    return runs


def train(
    runs: Sequence[PlannedRun], jobs: int, message: Callable[[str], None], keep_going: KeepGoing
) -> list[str | None]:
    """Trains and evaluates what is not finished yet, ``jobs`` at a time; for each run None, or why it did not finish.

    A run that fails does not keep the others from training.
    """
    folders = dict.fromkeys(run.recipe.folder for run in runs)
    groups = [[run for run in runs if run.recipe.folder == folder] for folder in folders]
    with ThreadPoolExecutor(jobs) as pool:
        told = itertools.count(1)

        def work(group: Sequence[PlannedRun]) -> dict[Path, str | None]:
            return _finish(group, f"[{next(told)}/{len(groups)}]", message, keep_going)

        outcomes = {path: error for found in pool.map(work, groups) for path, error in found.items()}
    return [outcomes[run.evaluation] for run in runs]


def _finish(
    group: Sequence[PlannedRun], number: str, message: Callable[[str], None], keep_going: KeepGoing
) -> dict[Path, str | None]:
    """One fit and its evaluations; by evaluation folder None, or why it did not finish."""
    first, errors = group[0], dict[Path, str | None]()
    if all(run.state == "finished" for run in group):
        return {run.evaluation: None for run in group}
    label = f"{number} {first.row.name}, seed {first.recipe.seed}"
    folder = first.recipe.folder
    try:
        if not keep_going():
            raise Stopped
        with exclusive(folder, keep_going, message) as lock:
            message(f"{label}: {folder}")
            fit_in_folder(first.recipe, folder.parent, lock, keep_going, message)
            for run in group:
                errors[run.evaluation] = _evaluate(run, lock, keep_going)
        message(f"{label}: {next((error for error in errors.values() if error), 'finished')}")
    except (ProcessError, OSError) as error:
        message(f"{label}: failed: {error}")
        errors = {run.evaluation: str(error) for run in group}
    except Stopped:
        errors = {run.evaluation: errors.get(run.evaluation, STOPPED) for run in group}
    return errors


def _evaluate(run: PlannedRun, lock: int, keep_going: KeepGoing) -> str | None:
    if run.is_evaluated:
        return None
    recipe = write_recipe(run.recipe, run.evaluation)
    try:
        run_command(["evaluate", recipe, "--output", run.evaluation], run.recipe.folder, lock, keep_going)
    except ProcessError as error:
        return str(error)
    return None


def _product(varied: Sequence[Sequence[tuple[str, str]]]) -> list[tuple[tuple[str, str], ...]]:
    return list(itertools.product(*varied)) if varied else []


def _parse_vary(text: str) -> list[tuple[str, str]]:
    """Each value as (label, override). A list as a value keeps its commas in brackets."""
    name, equals, listed = text.partition("=")
    example = "must be KEY=VALUE,VALUE, such as cell=gru,lstm"
    if not equals:
        raise RecipeError(f"--vary {text}: {example}")
    key = _variable(name.strip())
    flow = f"[{listed}]"
    try:
        node = yaml.compose(flow, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        raise RecipeError(f"--vary {text}: {example}") from None
    assert isinstance(node, yaml.SequenceNode)  # the brackets make it one
    values = [flow[item.start_mark.index : item.end_mark.index] for item in node.value]
    if not values:
        raise RecipeError(f"--vary {text}: {example}")
    return [(f"{name.strip()}={value}", f"{key}={value}") for value in values]


def _parse_row(text: str) -> Row:
    name, colon, settings = text.partition(":")
    example = 'must be "NAME: key=value key=value"'
    try:
        parts = [part.partition("=") for part in shlex.split(settings)]
    except ValueError as error:
        raise RecipeError(f"--row {text!r}: {example} ({error})") from None
    if not (colon and name.strip() and parts and all(equals for _, equals, _ in parts)):
        raise RecipeError(f"--row {text!r}: {example}")
    row = Row(name.strip(), tuple(f"{_variable(key)}={value}" for key, _, value in parts))
    again = _set_twice(row.settings)
    if again is not None:
        raise RecipeError(f"--row {text!r}: sets {again!r} twice")
    return row


def _set_twice(settings: Sequence[str]) -> str | None:
    """The key of a ``key=value`` that undoes an earlier one, of the same key or of one in its section."""
    keys = [setting.partition("=")[0] for setting in settings]
    for position, key in enumerate(keys):
        if any(f"{earlier}.".startswith(f"{key}.") for earlier in keys[:position]):
            return key
    return None


def _variable(name: str) -> str:
    """The full key, if it is one that makes a difference between runs of a table."""
    key = full_key(name)
    if key.partition(".")[0] in _FIXED:
        reason = "--seeds decides it" if key == "seed" else "scores do not depend on it"
        raise RecipeError(f"a comparison does not vary {key!r}: {reason}")
    return key
