"""Search options chosen on dev are the best of the grid."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from training.config import Recipe, TuningConfig
from training.evaluate import evaluate
from training.recipe_file import load_recipe
from training.system import open_checkpoint
from training.tuning import tune

ENGLISH = ["The river is wide and the ferry is slow.", "She reads a book on the deck.", "It will rain tomorrow."]


@pytest.fixture
def recipe(tmp_path: Path, tiny_checkpoint: Path) -> Recipe:
    """References are what the random model says with beam 3, so that options matter."""
    system = open_checkpoint(tiny_checkpoint)
    wanted = system._replace(options=system.options._replace(beam_size=3)).translate(ENGLISH)
    (tmp_path / "en").write_text("".join(f"{line}\n" for line in ENGLISH), encoding="utf-8")
    (tmp_path / "de").write_text("".join(f"{line}\n" for line in wanted), encoding="utf-8")
    corpus = {"source": str(tmp_path / "en"), "target": str(tmp_path / "de")}
    data = {"source": "en", "target": "de", "train": [corpus], "dev": [corpus]}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "tuned", "data": data, "export": {"licence": "CC0-1.0"}}))
    return load_recipe(path)


def test_the_best_of_the_grid_is_taken_and_every_trial_told(recipe: Recipe, tiny_checkpoint: Path) -> None:
    told: list[str] = []
    system = open_checkpoint(tiny_checkpoint)
    grid = TuningConfig(beam_sizes=(4, 1, 3), alphas=(0.0, 1.0))
    chosen = tune(system, recipe, grid, told.append)
    assert evaluate(chosen, recipe.data.dev[0]).scores.bleu == pytest.approx(100)
    assert len(told) == 6


def test_of_equals_the_smaller_beam_is_taken(recipe: Recipe, tiny_checkpoint: Path) -> None:
    system = open_checkpoint(tiny_checkpoint)
    chosen = tune(system, recipe, TuningConfig(beam_sizes=(5, 3, 3), alphas=(1.0, 1.0)), lambda text: None)
    scores = {
        size: evaluate(system._replace(options=system.options._replace(beam_size=size)), recipe.data.dev[0]).scores.bleu
        for size in (3, 5)
    }
    assert chosen.options.beam_size == min(scores, key=lambda size: (-scores[size], size))
