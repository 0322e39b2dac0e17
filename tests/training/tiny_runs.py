"""Recipes of a tiny model on a tiny text, with their tokenizer and corpora made."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

from training.config import Recipe
from training.prepare import make_tokenizers, open_tokenizers, prepare_corpora


def write_capitals(folder: Path) -> None:
    """Pairs whose target is the source in capitals."""
    draw = random.Random(1)
    words = ["river", "ferry", "water", "deck", "captain", "rain", "rail", "side", "boat", "wave"]
    lines = list(dict.fromkeys(" ".join(draw.choices(words, k=draw.randint(1, 5))) for _ in range(300)))
    for name, part in (("dev", lines[:10]), ("train", lines[10:])):
        (folder / f"{name}.en").write_text("".join(f"{line}\n" for line in part))
        (folder / f"{name}.de").write_text("".join(f"{line.upper()}\n" for line in part))


def tiny_recipe(
    text: Path, folder: Path, name: str = "run", seed: int = 1, dropout: float = 0.0, **training: object
) -> Recipe:
    """A recipe over the pairs in ``text`` with these options of its training section."""
    pairs = {split: [{"source": text / f"{split}.en", "target": text / f"{split}.de"}] for split in ("train", "dev")}
    options = {"batch_tokens": 200, "max_steps": 6, "validate_every": 2, "warmup_steps": 2, "learning_rate": 0.01}
    return Recipe.model_validate(
        {
            "name": name,
            "seed": seed,
            "folder": folder / name,
            "threads": 1,
            "device": "cpu",
            "precision": "float32",
            "data": {"source": "en", "target": "de", "workers": 1, **pairs},
            "tokenizer": {"vocabulary_size": 300, "sampling": {"variants": 2}},
            "model": {"embedding": 16, "hidden": 16, "dropout": dropout, "embedding_dropout": 0.0},
            "training": {**options, **training},
            "export": {"licence": "CC0-1.0"},
        }
    )


def prepare(text: Path) -> Path:
    """A folder with the tokenizer and the corpora of such recipes, made once for all of seed 1."""
    made = tiny_recipe(text, text, "prepared")
    make_tokenizers(made, made.folder)
    prepare_corpora(made, open_tokenizers(made.folder), made.folder)
    return made.folder


def begin(recipe: Recipe, prepared: Path) -> Recipe:
    """``recipe`` with its run folder begun."""
    shutil.copytree(prepared, recipe.folder)
    return recipe


def entries(recipe: Recipe, kind: str) -> list[dict[str, float]]:
    """Lines of ``metrics.jsonl``."""
    lines = (recipe.folder / "metrics.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if entry["kind"] == kind]
