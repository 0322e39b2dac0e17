"""A study: which search spaces it takes, how trials end, that it goes on, and what its report says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from optuna.trial import TrialState
from typer.testing import CliRunner

from training import study
from training.cli import app
from training.config import Recipe
from training.recipe_file import RecipeError, load_recipe
from training.run_processes import ProcessError, Stopped
from training.study import StudyError, Tuning, open_tuning, run_trials
from training.study_report import write_report

SPACE = {
    "model.hidden": {"low": 8, "high": 64, "step": 8},
    "training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "model.cell": ["gru", "lstm"],
}


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Path]:
    """A function from a search space to a recipe's file. Its text does not exist: no trial here trains."""

    def write(space: object = SPACE) -> Path:
        corpus = {"source": "no.en", "target": "no.de"}
        path = tmp_path / "tiny.yaml"
        path.write_text(
            yaml.safe_dump(
                {
                    "name": "tiny",
                    "folder": str(tmp_path / "run"),
                    "data": {"source": "en", "target": "de", "train": [corpus], "dev": [corpus]},
                    "model": {"hidden": 16, "heads": 4},
                    "training": {"learning_rate": 0.001, "max_steps": 10},
                    "export": {"licence": "CC0-1.0"},
                    "tune": space,
                }
            )
        )
        return path

    return write


class FakeFits:
    """Stands in for the fits: validates four times, BLEU growing to the trial's hidden width."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.recipes: list[Recipe] = []
        self.fail: Callable[[Recipe], bool] = lambda recipe: False
        self.stop_at = 99
        monkeypatch.setattr(study, "fit_in_folder", self.fit)

    def fit(self, recipe: Recipe, shared: Path, lock: int, keep_going: Callable[[], bool], message: object) -> None:
        self.recipes.append(recipe)
        (recipe.folder / "state").mkdir(exist_ok=True)
        if self.fail(recipe):
            raise ProcessError("the loss is no number")
        lines = []
        for count in range(1, 5):
            line = {
                "kind": "validation",
                "step": count * 3,
                "loss": 5.0 - count,
                "bleu": recipe.model.hidden * count / 4,
            }
            lines.append(json.dumps(line) + "\n")
            (recipe.folder / "metrics.jsonl").write_text("".join(lines))
            if count == self.stop_at or not keep_going():
                raise Stopped


def run(path: Path, trials: int, metric: study.Metric = "bleu") -> Tuning:
    tuning = open_tuning(path, [], metric)
    run_trials(tuning, trials, lambda text: None, lambda: True)
    return tuning


def states(tuning: Tuning) -> list[TrialState]:
    return [trial.state for trial in tuning.study.get_trials()]


@pytest.mark.parametrize(
    ("space", "sentence"),
    [
        ({}, "no section tune"),
        ({"model.hiden": [8, 16]}, "unknown key 'model.hiden'; did you mean 'model.hidden'"),
        ({"model.hidden": [8, "wide"]}, "tune: model.hidden: input should be a valid integer"),
        ({"model.dropout": {"low": 0.1, "high": 1.5}}, "tune: model.dropout: input should be less than 1"),
        ({"model.hidden": {"low": 8, "high": 9.5}}, "model.hidden is a whole number"),
        ({"model.cell": {"low": 1, "high": 2}}, "model.cell is not a number"),
        ({"training.betas": {"low": 1, "high": 2}}, "training.betas is not a number"),
        ({"seed": [1, 2]}, "seed: not a key"),
        ({"model.hidden": {"low": 16, "high": 8}}, "must be below high"),
        ({"model.hidden": {"low": 8}}, "a range with low and high"),
        ({"model.hidden": [8]}, "at least two"),
        ({"model.hidden": {"low": 8, "hihg": 9}}, "did you mean 'high'"),
        ({"training.learning_rate": {"low": 0, "high": 1, "log": True}}, "log needs a low above 0"),
    ],
)
def test_a_search_space_that_does_not_fit_the_recipe_is_refused(
    recipe: Callable[..., Path], space: object, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=sentence.replace(".", r"\.")):
        open_tuning(recipe(space), [], "bleu")
    assert not (tmp_path / "run").exists()


def test_the_recipes_own_values_are_tried_first_and_drawn_ones_lie_in_the_space(
    recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = FakeFits(monkeypatch)
    run(recipe(), 6)
    first, *others = fits.recipes
    assert (first.model.hidden, first.training.learning_rate, first.model.cell) == (16, 0.001, "lstm")
    assert len({made.folder for made in fits.recipes}) == 6
    for made in others:
        assert made.model.hidden in range(8, 65, 8)
        assert 1e-4 <= made.training.learning_rate <= 1e-2
        assert made.seed == first.seed


def test_a_resumed_study_draws_what_one_in_a_piece_draws(
    recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fits = FakeFits(monkeypatch)
    path = recipe()
    for trials in (2, 4, 4):
        tuning = run(path, trials)
    assert len(states(tuning)) == 4
    pieces = [made.model_copy(update={"folder": tmp_path}) for made in fits.recipes]
    fits.recipes.clear()
    whole = open_tuning(path, [f"folder={tmp_path / 'whole'}"], "bleu")
    run_trials(whole, 4, lambda text: None, lambda: True)
    assert [made.model_copy(update={"folder": tmp_path}) for made in fits.recipes] == pieces


def test_a_trial_that_was_cut_off_goes_on_in_its_folder_with_its_values(
    recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = FakeFits(monkeypatch)
    fits.stop_at = 2
    tuning = open_tuning(recipe(), [], "bleu")
    run_trials(tuning, 2, lambda text: None, lambda: not fits.recipes)
    assert states(tuning) == [TrialState.RUNNING]
    assert (tuning.trial_folder(0) / "state").exists()
    fits.stop_at = 99
    again = run(tuning.path, 2)
    assert states(again) == [TrialState.COMPLETE] * 2
    assert fits.recipes[1] == fits.recipes[0]


def test_a_trial_that_lags_behind_the_others_is_pruned(
    recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = FakeFits(monkeypatch)
    tuning = open_tuning(recipe({"model.hidden": [8, 64]}), [], "bleu")
    for hidden in (64, 64, 64, 64, 8):
        tuning.study.enqueue_trial({"model.hidden": hidden})
    run_trials(tuning, 5, lambda text: None, lambda: True)
    assert states(tuning) == [TrialState.COMPLETE] * 4 + [TrialState.PRUNED]
    pruned = tuning.study.get_trials()[-1]
    assert list(pruned.intermediate_values) == [3]
    assert not (tuning.trial_folder(4) / "state").exists()
    assert len(fits.recipes) == 5


def test_a_failed_trial_keeps_its_error_and_does_not_end_the_study(
    recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = FakeFits(monkeypatch)
    fits.fail = lambda made: len(fits.recipes) == 2
    tuning = run(recipe(), 3)
    assert states(tuning) == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]
    assert "- Trial 1 failed: the loss is no number" in write_report(tuning, "").read_text()


def test_values_that_contradict_each_other_fail_their_trial(
    recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeFits(monkeypatch)
    tuning = open_tuning(recipe({"model.heads": [4, 3]}), [], "bleu")
    for heads in (3, 4):
        tuning.study.enqueue_trial({"model.heads": heads})
    run_trials(tuning, 3, lambda text: None, lambda: True)
    assert TrialState.FAIL in states(tuning)
    failed = next(trial for trial in tuning.study.get_trials() if trial.state == TrialState.FAIL)
    assert "must be a multiple of heads (3)" in failed.user_attrs[study.ERROR]


def test_trials_that_all_fail_end_the_study(recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    fits = FakeFits(monkeypatch)
    fits.fail = lambda made: True
    with pytest.raises(StudyError, match="3 trials in a row failed, the last with: the loss is no number"):
        run(recipe(), 10)


def test_a_study_of_another_recipe_is_not_gone_on_with(
    recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeFits(monkeypatch)
    run(recipe(), 1)
    with pytest.raises(StudyError, match="a study of another recipe"):
        open_tuning(recipe(), ["training.max_steps=11"], "bleu")


def test_a_loss_is_minimised(recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    FakeFits(monkeypatch)
    assert run(recipe(), 1, "loss").study.best_value == 1.0


def test_the_report_of_few_trials_says_that_importances_need_more(
    recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeFits(monkeypatch)
    report = write_report(run(recipe(), 2), "ferry-train tune")
    assert "Importances are not estimated: 2 trials have finished, of at least 5." in report.read_text()
    assert (report.parent / "history.png").read_bytes().startswith(b"\x89PNG")


def test_a_study_without_a_finished_trial_has_a_report(recipe: Callable[..., Path]) -> None:
    report = write_report(open_tuning(recipe(), [], "bleu"), "ferry-train tune")
    assert "No trial has finished" in report.read_text()
    assert not (report.parent / "best.yaml").exists()


def test_the_command_reports_importances_and_writes_a_recipe_that_can_be_run(
    recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fits = FakeFits(monkeypatch)
    monkeypatch.setattr("training.study.MedianPruner", lambda **options: study.optuna.pruners.NopPruner())
    done = CliRunner().invoke(app, ["tune", str(recipe()), "--trials", "6"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    folder = tmp_path / "run" / "tune"
    report = (folder / "report.md").read_text()
    assert "6 finished" in report
    assert "| key | importance |" in report
    assert (folder / "importances.png").read_bytes().startswith(b"\x89PNG")
    best = load_recipe(folder / "best.yaml")
    assert best.model.hidden == max(made.model.hidden for made in fits.recipes)
    assert best.folder == tmp_path / "run-tuned"
    assert best.tune == {}
