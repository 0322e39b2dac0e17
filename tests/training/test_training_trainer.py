"""The loop: what ends a run, what it keeps, and that a step is what it claims to be."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from training.batching import Batch
from training.config import Recipe
from training.loader import Load, prepare_inputs
from training.optimizer import update_average
from training.prepare import make_tokenizers
from training.stop import Stop
from training.trainer import Trainer, fit


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs whose target is the source in capitals."""
    folder, draw = tmp_path_factory.mktemp("text"), random.Random(1)
    words = ["river", "ferry", "water", "deck", "captain", "rain", "rail", "side", "boat", "wave"]
    lines = list(dict.fromkeys(" ".join(draw.choices(words, k=draw.randint(1, 5))) for _ in range(300)))
    for name, part in (("dev", lines[:10]), ("train", lines[10:])):
        (folder / f"{name}.en").write_text("".join(f"{line}\n" for line in part))
        (folder / f"{name}.de").write_text("".join(f"{line.upper()}\n" for line in part))
    return folder


@pytest.fixture
def recipe(text: Path, tmp_path: Path):
    """A function from training options to a recipe with its tokenizer made."""

    def make(name: str = "run", seed: int = 1, **training: object) -> Recipe:
        pairs = {
            split: [{"source": text / f"{split}.en", "target": text / f"{split}.de"}] for split in ("train", "dev")
        }
        options = {"batch_tokens": 200, "max_steps": 6, "validate_every": 2, "warmup_steps": 2, "learning_rate": 0.01}
        made = Recipe.model_validate(
            {
                "name": name,
                "seed": seed,
                "folder": tmp_path / name,
                "threads": 1,
                "device": "cpu",
                "precision": "float32",
                "data": {"source": "en", "target": "de", **pairs},
                "tokenizer": {"vocabulary_size": 300},
                "model": {"embedding": 16, "hidden": 16, "dropout": 0.0, "embedding_dropout": 0.0},
                "training": {**options, **training},
                "export": {"licence": "CC0-1.0"},
            }
        )
        make_tokenizers(made, made.folder)
        return made

    return make


def entries(recipe: Recipe, kind: str) -> list[dict[str, float]]:
    lines = (recipe.folder / "metrics.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if entry["kind"] == kind]


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
    assert result.steps == 2 * trainer.batches.batches_per_epoch


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
