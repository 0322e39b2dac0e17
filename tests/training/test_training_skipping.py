"""A step that is not finite changes nothing, is counted, and ends the run when there are too many in a row."""

from __future__ import annotations

import copy
from collections.abc import Container
from itertools import count

import pytest
import torch
from tiny_runs import entries
from torch import Tensor

from training.curves import _smooth
from training.optimizer import Updater
from training.readout import Readout
from training.skipping import TrainingError
from training.state import Progress, load_state, recipe_identity, state_file
from training.stop import Stop
from training.trainer import Trainer, fit


def trainer(recipe, on_device: bool = False, **options: object) -> Trainer:
    """``on_device``: as on a GPU, the decision falls on the device and is read a step late."""
    made = recipe(preflight=False, validate_every=100, **options)
    new = Trainer(made, made.folder)
    new.updater.on_device = on_device
    new.readout = Readout(late=int(on_device))
    return new


def poison(trainer: Trainer, steps: Container[int]) -> None:
    """Make the loss of these steps no number, counted from now on."""
    forward, numbers = trainer.loss.forward, count(1)

    def broken(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        smoothed, likelihood = forward(*inputs)
        factor = float("nan") if next(numbers) in steps else 1.0
        return smoothed * factor, likelihood * factor

    trainer.loss.forward = broken  # type: ignore[method-assign]


def everything(updater: Updater) -> list[Tensor]:
    """Weights, average, and the optimizer's moments and counts of steps."""
    state = updater.optimizer.state_dict()["state"].values()
    kept = [*updater.model.parameters(), *updater.average.parameters(), *(each[key] for each in state for key in each)]
    return [tensor.detach().clone() for tensor in kept]


@pytest.mark.parametrize("on_device", [False, True])
def test_a_step_that_is_not_finite_changes_nothing(recipe, on_device: bool) -> None:
    run = trainer(recipe, on_device)
    run.reporter.start(6, 0)
    loader = run._loader()
    run._step(next(loader), Stop())
    before = everything(run.updater)
    poison(run, [1])
    run._step(next(loader), Stop())
    assert all(map(torch.equal, before, everything(run.updater)))
    run._step(next(loader), Stop())
    assert not any(map(torch.equal, before[:3], everything(run.updater)[:3]))
    loader.close()
    run.reporter.close()


@pytest.mark.parametrize("on_device", [False, True])
def test_skipped_steps_are_counted(recipe, on_device: bool) -> None:
    run = trainer(recipe, on_device)
    poison(run, [2, 3])
    result = run.run(Stop())
    assert (result.steps, result.skipped) == (6, 2)
    lines = entries(run.recipe, "step")
    assert [line["skipped"] for line in lines] == [0, 1, 2, 2, 2, 2]
    assert [line["loss"] is None for line in lines] == [False, True, True, False, False, False]
    assert lines[1]["tokens"] == lines[0]["tokens"]


def test_a_decision_on_the_device_gives_the_same_weights(recipe) -> None:
    runs = [trainer(recipe, on_device, name=str(on_device)) for on_device in (False, True)]
    for run in runs:
        poison(run, [3])
        run.run(Stop())
    for first, second in zip(*(everything(run.updater) for run in runs), strict=True):
        torch.testing.assert_close(first, second)


@pytest.mark.parametrize("on_device", [False, True])
def test_too_many_in_a_row_end_the_run_with_the_last_good_state(recipe, on_device: bool) -> None:
    run = trainer(recipe, on_device, max_steps=20, save_every=2, nonfinite_patience=3)
    poison(run, {1, 2} | set(range(6, 20)))
    with pytest.raises(TrainingError, match=r"step 8: loss nan.* state of step 4|step 8.*that of step 4") as raised:
        run.run(Stop())
    assert "training.learning_rate (now 0.01)" in str(raised.value)
    state = load_state(state_file(run.folder), recipe_identity(run.recipe))
    progress = Progress(*state["progress"])  # type: ignore[arg-type]
    assert (progress.step, progress.skipped, progress.skipped_in_row) == (4, 2, 0)
    assert all(bool(tensor.isfinite().all()) for tensor in state["model"].values())


def test_without_a_state_the_error_says_to_start_again(recipe) -> None:
    run = trainer(recipe, nonfinite_patience=2)
    poison(run, range(10))
    with pytest.raises(TrainingError, match="No state had been saved yet"):
        run.run(Stop())


def test_a_diverged_run_goes_on_at_a_lower_rate(recipe) -> None:
    made = recipe(save_every=3, max_steps=3)
    fit(made, resume=False, run_folder=made.folder)
    lower = made.model_copy(update={"training": made.training.model_copy(update={"max_steps": 5, "clip_norm": 0.5})})
    assert fit(lower, resume=True, run_folder=made.folder).steps == 5


def test_what_shapes_the_run_may_not_change(recipe) -> None:
    made = recipe()
    changed = copy.deepcopy(made).model_copy(update={"seed": 2})
    assert recipe_identity(changed) != recipe_identity(made)
    batches = made.training.model_copy(update={"batch_tokens": 100})
    assert recipe_identity(made.model_copy(update={"training": batches})) != recipe_identity(made)


def test_a_skipped_step_leaves_the_curve_where_it_is() -> None:
    assert _smooth([1.0, float("nan"), 1.0]) == [1.0, 1.0, 1.0]
