"""Search options chosen on dev are the best of the grid, if dev can tell them from the recipe's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from training.config import Recipe, TuningConfig
from training.evaluate import evaluate
from training.recipe_file import load_recipe
from training.system import System, open_checkpoint
from training.tuning import tune

SENTENCES = ["The river is wide and the ferry is slow.", "She reads a book on the deck.", "It will rain tomorrow."]
ENGLISH = [f"{line[:-1]} {number}." for number in range(12) for line in SENTENCES]


def recipe(folder: Path, checkpoint: Path, greedy: int = 0) -> Recipe:
    """References are what the random model says with beam 3, the first ``greedy`` of them with beam 1."""
    system = open_checkpoint(checkpoint)
    wanted = system.with_search(1).translate(ENGLISH[:greedy]) + system.with_search(3).translate(ENGLISH[greedy:])
    (folder / "en").write_text("".join(f"{line}\n" for line in ENGLISH), encoding="utf-8")
    (folder / "de").write_text("".join(f"{line}\n" for line in wanted), encoding="utf-8")
    corpus = {"source": str(folder / "en"), "target": str(folder / "de")}
    data = {"source": "en", "target": "de", "train": [corpus], "dev": [corpus]}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "tuned", "data": data, "export": {"licence": "CC0-1.0"}}))
    return load_recipe(path)


def bleu(system: System, recipe: Recipe) -> float:
    return evaluate(system, recipe.data.dev[0]).scores.bleu


def test_the_best_of_the_grid_is_taken_and_every_trial_told(tmp_path: Path, tiny_checkpoint: Path) -> None:
    told: list[str] = []
    dev, own = recipe(tmp_path, tiny_checkpoint), open_checkpoint(tiny_checkpoint).with_search(1)
    chosen = tune(own, dev, TuningConfig(beam_sizes=(4, 1, 3), alphas=(0.0, 1.0)), told.append)
    assert bleu(chosen, dev) == pytest.approx(100)
    assert len(told) == 7  # six trials, of which one has the system's own options, or one more; and the verdict
    assert told[-1].startswith("beam 3, length penalty power ")
    assert "is better than the recipe's beam 1" in told[-1]


def test_of_equals_the_smaller_beam_is_taken(tmp_path: Path, tiny_checkpoint: Path) -> None:
    dev, own = recipe(tmp_path, tiny_checkpoint), open_checkpoint(tiny_checkpoint).with_search(1)
    chosen = tune(own, dev, TuningConfig(beam_sizes=(5, 3, 3), alphas=(1.0, 1.0)), lambda text: None)
    scores = {size: bleu(own.with_search(size), dev) for size in (3, 5)}
    assert chosen.options.beam_size == min(scores, key=lambda size: (-scores[size], size))


def test_what_dev_cannot_tell_from_the_recipes_own_is_not_taken(tmp_path: Path, tiny_checkpoint: Path) -> None:
    told: list[str] = []
    dev, own = recipe(tmp_path, tiny_checkpoint, greedy=14), open_checkpoint(tiny_checkpoint).with_search(1)
    assert bleu(own, dev) < bleu(own.with_search(3), dev)
    assert tune(own, dev, TuningConfig(beam_sizes=(3,), alphas=(1.0,)), told.append) is own
    assert "is not significant" in told[-1]


def test_the_recipes_own_may_be_the_best(tmp_path: Path, tiny_checkpoint: Path) -> None:
    dev, own = recipe(tmp_path, tiny_checkpoint), open_checkpoint(tiny_checkpoint).with_search(3)
    assert tune(own, dev, TuningConfig(beam_sizes=(1, 3), alphas=(1.0,)), lambda text: None) is own
