"""``tune``: a study of Optuna (Akiba et al. 2019) in which every trial is a fit.

A trial's validations are reported to the study while it trains, and a trial that lags behind the median of the others
is stopped. The study is a file; a trial that was cut off is taken up again by the next ``tune``.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import optuna
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from training.config import Recipe
from training.metrics import MetricsError
from training.recipe_file import RecipeError, load_recipe
from training.run_folders import fit_in_folder, fit_key, placed
from training.run_processes import KeepGoing, ProcessError, Stopped, exclusive, in_use
from training.run_results import DevScore, read_validations
from training.search_space import check_space, draw, overrides, own_values
from training.state import BEST_WEIGHTS, LAST_WEIGHTS, state_file

Metric: TypeAlias = Literal["bleu", "loss"]
TUNE_FOLDER, STUDY_FILE, TRIALS_FOLDER = "tune", "study.db", "trials"
ERROR = "error"  # the user attribute of a failed trial
_IDENTITY = "identity"
_FAILURES_IN_A_ROW = 3
_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class StudyError(Exception):
    """A study cannot go on; the message says what would be right."""


class Tuning(NamedTuple):
    """A recipe with its search space, and the study of it."""

    path: Path
    changes: Sequence[str]  # --set
    recipe: Recipe
    metric: Metric
    study: Study

    @property
    def folder(self) -> Path:
        return self.recipe.folder / TUNE_FOLDER

    def trial_folder(self, number: int) -> Path:
        return self.folder / TRIALS_FOLDER / f"{number:04d}"

    def with_values(self, values: Sequence[str]) -> Recipe:
        """The recipe of a trial. Raises RecipeError where values contradict each other."""
        return load_recipe(self.path, [*self.changes, *values])


def open_tuning(path: Path, changes: Sequence[str], metric: Metric) -> Tuning:
    """Opens the study in the recipe's run folder, or begins one, with the recipe's own values as its first trial.

    Raises RecipeError for an unusable recipe or search space, and StudyError where the study there is of another one.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    recipe = load_recipe(path, changes)
    check_space(recipe.tune)
    folder = recipe.folder / TUNE_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{(folder / STUDY_FILE).resolve()}",
        study_name=recipe.name,
        direction="maximize" if metric == "bleu" else "minimize",
        pruner=MedianPruner(n_startup_trials=4, n_warmup_steps=recipe.training.max_steps // 5),
        load_if_exists=True,
    )
    identity = _identity(recipe, metric)
    if study.user_attrs.get(_IDENTITY, identity) != identity:
        raise StudyError(
            f"{folder / STUDY_FILE} is a study of another recipe, search space or metric; "
            f"move {folder} away, or name another run folder with --set folder=..."
        )
    if _IDENTITY not in study.user_attrs:
        study.set_user_attr(_IDENTITY, identity)
        own = own_values(recipe, recipe.tune)
        if own is not None:
            study.enqueue_trial(own)
    return Tuning(path, changes, recipe, metric, study)


def run_trials(
    tuning: Tuning, trials: int, message: Callable[[str], None], keep_going: KeepGoing, seconds: float = math.inf
) -> None:
    """Runs trials until the study has ``trials`` finished ones, ``keep_going`` says no, or the time is over.

    A trial that is cut off keeps its state and goes on next time. Raises StudyError where several trials in a row fail.
    """
    end = time.monotonic() + seconds

    def going() -> bool:
        return keep_going() and time.monotonic() < end

    failures = 0
    while going() and failures < _FAILURES_IN_A_ROW:
        with ExitStack() as locks:
            try:
                trial, lock = _next_trial(tuning, trials, message, going, locks)
            except Stopped:
                return
            if trial is None:
                return
            state = _run(tuning, trial, lock, message, going)
        failures = failures + 1 if state == TrialState.FAIL else 0
    if failures == _FAILURES_IN_A_ROW:
        last = tuning.study.trials[-1].user_attrs.get(ERROR)
        raise StudyError(f"{failures} trials in a row failed, the last with: {last}")


def score_of(validation: DevScore, metric: Metric) -> float:
    return validation.bleu if metric == "bleu" else validation.loss


def _next_trial(
    tuning: Tuning, trials: int, message: Callable[[str], None], keep_going: KeepGoing, locks: ExitStack
) -> tuple[Trial | None, int]:
    """A trial that was cut off, or a new one, with the lock of its folder; None if the study has enough.

    The choice itself is locked, so that several processes can work on one study.
    """
    study = tuning.study
    with exclusive(tuning.folder, keep_going, message):
        begun = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.RUNNING]
        busy = [trial for trial in begun if in_use(tuning.trial_folder(trial.number))]
        idle = [trial for trial in begun if trial not in busy]
        if idle:
            trial = Trial(study, idle[0]._trial_id)  # Optuna has no public way to take a trial up again
            message(f"trial {trial.number}: goes on")
        else:
            count = sum(trial.state in _FINISHED for trial in study.get_trials(deepcopy=False)) + len(busy)
            if count >= trials:
                return None, -1
            # A seed of its own for each draw: a study that is resumed draws what it would have drawn.
            study.sampler = TPESampler(seed=tuning.recipe.seed + len(study.get_trials(deepcopy=False)))
            trial = study.ask()
        return trial, locks.enter_context(exclusive(tuning.trial_folder(trial.number), keep_going, message))


def _run(
    tuning: Tuning, trial: Trial, lock: int, message: Callable[[str], None], keep_going: KeepGoing
) -> TrialState | None:
    """Fits one trial and tells the study; None if it was cut off."""
    folder = tuning.trial_folder(trial.number)
    values = overrides(draw(trial, tuning.recipe.tune))
    watch = _Watch(trial, _frozen(tuning.study, trial), folder, tuning.metric)
    message(f"trial {trial.number}: {' '.join(values)}")
    try:
        recipe = placed(tuning.with_values(values), folder)
        fit_in_folder(recipe, tuning.folder, lock, lambda: keep_going() and not watch.should_stop(), message)
        best = watch.best()
    except Stopped:
        if not watch.pruned:
            message(f"trial {trial.number}: stopped, its state is saved")
            return None
        tuning.study.tell(trial, state=TrialState.PRUNED)
        return _ended(folder, TrialState.PRUNED, f"trial {trial.number}: pruned at {watch.last}", message)
    except (ProcessError, RecipeError, MetricsError, OSError) as error:
        trial.set_user_attr(ERROR, str(error))
        tuning.study.tell(trial, state=TrialState.FAIL)
        return _ended(folder, TrialState.FAIL, f"trial {trial.number}: failed: {error}", message)
    tuning.study.tell(trial, best)
    return _ended(folder, TrialState.COMPLETE, f"trial {trial.number}: dev {tuning.metric} {best:.4g}", message)


class _Watch:
    """Reports a fit's validations to its trial as they come, and asks whether it is worth going on."""

    def __init__(self, trial: Trial, frozen: FrozenTrial, folder: Path, metric: Metric) -> None:
        self._trial, self._folder, self._metric = trial, folder, metric
        self._reported = set(frozen.intermediate_values)
        self.pruned = False
        self.last = "the start"

    def should_stop(self) -> bool:
        """Reports what is new; True once the trial is to be pruned."""
        new = [found for found in self._validations() if found.step not in self._reported]
        for validation in new:
            self._reported.add(validation.step)
            score = score_of(validation, self._metric)
            self._trial.report(score, validation.step)
            self.last = f"step {validation.step:,}, dev {self._metric} {score:.4g}"
            self.pruned = self.pruned or self._trial.should_prune()
        return self.pruned

    def best(self) -> float:
        """The best validation of a fit that has ended. Raises ProcessError where there is none."""
        validations = self._validations()
        if not validations:
            raise ProcessError("no validation gave a number")
        for validation in validations:
            if validation.step not in self._reported:
                self._trial.report(score_of(validation, self._metric), validation.step)
        scores = [score_of(validation, self._metric) for validation in validations]
        return max(scores) if self._metric == "bleu" else min(scores)

    def _validations(self) -> list[DevScore]:
        found = read_validations(self._folder)
        return [validation for validation in found if math.isfinite(score_of(validation, self._metric))]


def _ended(folder: Path, state: TrialState, text: str, message: Callable[[str], None]) -> TrialState:
    """What only serves to go on is deleted, and the weights of a trial that nobody will use."""
    message(text)
    shutil.rmtree(state_file(folder).parent, ignore_errors=True)
    for name in (LAST_WEIGHTS, *(() if state == TrialState.COMPLETE else (BEST_WEIGHTS,))):
        (folder / name).unlink(missing_ok=True)
    return state


def _frozen(study: Study, trial: Trial) -> FrozenTrial:
    return next(found for found in study.get_trials(deepcopy=False) if found.number == trial.number)


def _identity(recipe: Recipe, metric: Metric) -> str:
    """Trials are comparable only where all but the drawn values is equal."""
    space = {key: dimension.model_dump(mode="json") for key, dimension in sorted(recipe.tune.items())}
    return hashlib.sha256(f"{fit_key(recipe)} {metric} {space}".encode()).hexdigest()[:16]
