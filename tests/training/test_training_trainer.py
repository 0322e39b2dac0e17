"""The loop: what ends a run, what it keeps, and that a step is what it claims to be."""

from __future__ import annotations

import torch
from safetensors.torch import load_file
from tiny_runs import entries

from training.batching import Batch
from training.loader import Load, prepare_inputs
from training.optimizer import update_average
from training.planning import plan_epoch
from training.stop import Stop
from training.trainer import Trainer, fit


def test_a_run_learns_and_keeps_best_and_last(recipe) -> None:
    made = recipe(max_steps=40, validate_every=10, ema_decay=0.5)
    result = fit(made, resume=False, run_folder=made.folder)
    losses = [entry["loss"] for entry in entries(made, "validation")]
    assert losses[-1] < losses[0] - 0.5
    assert result.steps == 40
    assert not result.interrupted
    assert load_file(made.folder / "best.safetensors").keys() == load_file(made.folder / "last.safetensors").keys()
    assert [file.name for file in made.folder.glob("**/*.partial")] == []


def test_the_same_seed_gives_the_same_run_and_another_does_not(recipe) -> None:
    runs = [recipe(name, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    for made in runs:
        fit(made, resume=False, run_folder=made.folder)
    first, second, third = ((made.folder / "last.safetensors").read_bytes() for made in runs)
    assert first == second
    assert first != third


def test_patience_ends_the_run(recipe) -> None:
    # A rate of next to nothing: no validation after the first is better.
    stopping = {"metric": "bleu", "patience": 2}
    made = recipe(max_steps=100, learning_rate=1e-12, early_stopping=stopping)
    result = fit(made, resume=False, run_folder=made.folder)
    assert result.steps == 6
    assert result.best_step == 2


def test_epochs_end_the_run(recipe) -> None:
    made = recipe(max_steps=1000, max_epochs=2, validate_every=1000)
    trainer = Trainer(made, made.folder)
    result = trainer.run(Stop())
    plans = [plan_epoch(trainer.corpus, made.training.batch_tokens, made.seed, epoch) for epoch in range(2)]
    assert result.steps == sum(map(len, plans))


def test_accumulated_batches_weigh_every_position_alike(recipe) -> None:
    """The gradient of two batches in one step is that of the two taken as one, positions counted once."""
    made = recipe(accumulate=2)
    trainer = Trainer(made, made.folder)
    batches = [next(trainer.batches) for _ in range(2)]
    tokens = [int((batch.target_output != 0).sum()) for batch in batches]

    def gradient(*batches: Batch) -> torch.Tensor:
        inputs = tuple(prepare_inputs(batch, pad=0) for batch in batches)
        trainer._gradients(Load(inputs, sum(len(each.real) for each in inputs), trainer.position))
        return trainer.model.bridge.project.weight.grad.clone()  # type: ignore[union-attr]

    apart = [gradient(batch) * count for batch, count in zip(batches, tokens, strict=True)]
    torch.testing.assert_close(gradient(*batches), (apart[0] + apart[1]) / sum(tokens))


def test_the_average_follows_the_weights(recipe) -> None:
    made = recipe()
    trainer = Trainer(made, made.folder)
    with torch.no_grad():
        trainer.model.output_bias.fill_(1.0)
    update_average(trainer.average, trainer.model, 0.9, step=10**6)
    torch.testing.assert_close(trainer.average.output_bias, torch.full_like(trainer.average.output_bias, 0.1))
    update_average(trainer.average, trainer.model, 0.0, step=10**6)
    torch.testing.assert_close(trainer.average.output_bias, trainer.model.output_bias)
