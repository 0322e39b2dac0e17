"""The loop with R-Drop, averaging, transfer and freezing: each does in a run what it says."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

import pytest
import torch
from safetensors.torch import load_file

from training.averaging import AVERAGING_FOLDER
from training.batching import Batch
from training.config import Recipe
from training.export import export
from training.fit_record import FitRecord
from training.loader import Load, prepare_inputs
from training.stop import Stop
from training.trainer import FitResult, Trainer, fit
from training.transfer import inherited_data
from training.validation import Validation

MakeRecipe = Callable[..., Recipe]


class Killed(Exception):
    """Stands for the end of a process."""


def run(recipe: Recipe, resume: bool = False) -> FitResult:
    return fit(recipe, resume=resume, run_folder=recipe.folder)


def kept(recipe: Recipe) -> list[int]:
    return sorted(int(path.stem) for path in (recipe.folder / AVERAGING_FOLDER).iterdir())


def gradient(trainer: Trainer, *batches: Batch) -> torch.Tensor:
    """Of the bridge, under dropout that is the same for the same sequence of calls after a seed."""
    inputs = tuple(prepare_inputs(batch, pad=0) for batch in batches)
    trainer._gradients(Load(inputs, sum(len(each.real) for each in inputs), trainer.position))
    found = trainer.model.bridge.project.weight.grad
    assert found is not None
    return found.clone()


def test_r_drop_draws_the_passes_together(recipe: MakeRecipe) -> None:
    """With dropout the divergence of the passes has a gradient of its own; without, they are one pass."""

    def found(r_drop: float, dropout: float) -> torch.Tensor:
        made = recipe(f"{r_drop}-{dropout}", r_drop=r_drop, dropout=dropout)
        trainer = Trainer(made, made.folder)
        torch.manual_seed(1)
        return gradient(trainer, next(trainer.batches))

    torch.testing.assert_close(found(5.0, dropout=0.0), found(0.0, dropout=0.0))
    assert not torch.allclose(found(5.0, dropout=0.3), found(1e-9, dropout=0.3), rtol=0.1)


def test_r_drop_weighs_every_position_of_accumulated_batches_alike(recipe: MakeRecipe) -> None:
    made = recipe(r_drop=5.0, dropout=0.3)
    trainer = Trainer(made, made.folder)
    batches = [next(trainer.batches) for _ in range(2)]
    tokens = [int((batch.target_output != 0).sum()) for batch in batches]
    torch.manual_seed(1)
    apart = [gradient(trainer, batch) * count for batch, count in zip(batches, tokens, strict=True)]
    torch.manual_seed(1)
    torch.testing.assert_close(gradient(trainer, *batches), (apart[0] + apart[1]) / sum(tokens))


def test_a_killed_run_with_averaging_and_r_drop_goes_on_bit_equal(recipe: MakeRecipe) -> None:
    options = {"average_last": 2, "r_drop": 2.0, "dropout": 0.2, "max_steps": 10, "save_every": 4}
    whole, broken = recipe("whole", **options), recipe("broken", **options)
    result = run(whole)
    trainer = Trainer(broken, broken.folder)
    trainer.begin()
    validate = trainer._validate

    def die_after_validation() -> None:
        validate()
        if trainer.progress.step == 6:
            raise Killed

    trainer._validate = die_after_validation  # type: ignore[method-assign]
    with pytest.raises(Killed):
        trainer.run(Stop())
    assert kept(broken) == [2, 4, 6]  # the state, of step 4, needs 2 and 4
    resumed = run(broken, resume=True)
    assert resumed._replace(seconds=0) == result._replace(seconds=0)
    assert kept(broken) == kept(whole) == [8, 10]
    for name in ("best", "last"):
        file = f"{name}.safetensors"
        assert (broken.folder / file).read_bytes() == (whole.folder / file).read_bytes(), name


@pytest.mark.parametrize(("last", "mean_wins"), [(31.0, True), (30.0, False)])
def test_the_mean_is_kept_where_it_is_better_on_dev(
    recipe: MakeRecipe, capsys: pytest.CaptureFixture[str], last: float, mean_wins: bool
) -> None:
    made = recipe(average_last=2, ema_decay=0.0)
    trainer = Trainer(made, made.folder)
    trainer.begin()
    figures: Iterator[float] = iter([10.0, 30.0, 20.0, last])  # validations at 2, 4 and 6, then that of the mean
    trainer.selection.validator.validate = lambda *_: Validation(1.0, next(figures), [])  # type: ignore[method-assign]
    result = trainer.run(Stop())
    assert (result.best_step, result.best_score, result.best_mean_of) == ((6, 31.0, 2) if mean_wins else (4, 30.0, 0))
    averaged = [load_file(made.folder / AVERAGING_FOLDER / f"{step}.safetensors") for step in (4, 6)]
    expected = {name: (averaged[0][name] + averaged[1][name]) / 2 for name in averaged[0]} if mean_wins else averaged[0]
    best = load_file(made.folder / "best.safetensors")
    for name, tensor in expected.items():
        torch.testing.assert_close(best[name], tensor)
    told = " ".join(capsys.readouterr().err.split())
    assert f"steps 4, 6 dev: loss 1.000 BLEU {last:.2f}; by bleu {'better' if mean_wins else 'no better'} than" in told


def test_an_interrupted_run_does_not_try_the_mean(recipe: MakeRecipe) -> None:
    made = recipe(average_last=2, max_steps=100, validate_every=1)
    trainer = Trainer(made, made.folder)
    trainer.begin()
    stop, validate = Stop(), trainer._validate

    def ask_to_stop() -> None:
        validate()
        stop.requested = trainer.progress.step == 3

    trainer._validate = ask_to_stop  # type: ignore[method-assign]
    trainer.selection.validate_mean = lambda *_: pytest.fail("tried")  # type: ignore[method-assign]
    assert trainer.run(stop).interrupted


def test_a_run_begins_with_the_weights_of_another_and_leaves_frozen_ones_alone(recipe: MakeRecipe) -> None:
    old = recipe("old", seed=5)
    run(old)
    new = recipe("new", init_from=old.folder, freeze=["encoder.*"], weight_decay=0.1)
    run(new)
    before, after = (load_file(path) for path in (old.folder / "best.safetensors", new.folder / "last.safetensors"))
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name]) == name.startswith("encoder."), name
    assert inherited_data(new.folder) == tuple(f"{corpus.label} [through {old.folder}]" for corpus in old.data.train)


def test_a_resumed_run_does_not_begin_again(recipe: MakeRecipe) -> None:
    old = recipe("old", seed=5)
    run(old)
    new = recipe("new", init_from=old.folder)
    run(new)
    shutil.rmtree(old.folder)
    longer = new.model_copy(update={"training": new.training.model_copy(update={"max_steps": 8})})
    assert run(longer, resume=True).steps == 8
    assert (new.folder / "transfer.json").is_file()


def test_a_run_from_scratch_forgets_the_transfer_of_an_earlier_one(recipe: MakeRecipe) -> None:
    old = recipe("old", seed=5)
    run(old)
    new = recipe("new", init_from=old.folder)
    run(new)
    run(new.model_copy(update={"training": new.training.model_copy(update={"init_from": None})}))
    assert inherited_data(new.folder) == ()


def test_a_checkpoint_states_what_its_origin_learned_from_and_is_an_origin_itself(recipe: MakeRecipe) -> None:
    old = recipe("old", seed=5)
    run(old)
    new = recipe("new", init_from=old.folder)
    FitRecord(**run(new)._asdict(), device="cpu").save(new.folder)
    checkpoint = export(new, new.folder, "new.yaml", lambda _: None)
    through_old = f"{old.data.train[0].label} [through {old.folder}]"
    assert checkpoint.config.training.data[-1] == through_old
    newest = recipe("newest", init_from=checkpoint.folder)
    run(newest)
    assert inherited_data(newest.folder)[-1] == f"{through_old} [through en-de 1 ({checkpoint.folder})]"
