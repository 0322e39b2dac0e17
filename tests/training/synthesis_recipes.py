"""A recipe of a few sentences, for the tests of synthetic text."""

from __future__ import annotations

import lzma
from pathlib import Path

import yaml

from tests.conftest import ENGLISH, GERMAN
from training.config import Recipe
from training.corpus_config import CorpusConfig
from training.reading import read_all
from training.recipe_file import load_recipe

TRAIN = list(zip(ENGLISH[:6], GERMAN[:6], strict=True))
DEV = list(zip(ENGLISH[6:], GERMAN[6:], strict=True))


def write_recipe_of(folder: Path, train: list[tuple[str, str]] = TRAIN, dev: list[tuple[str, str]] = DEV) -> Path:
    """Writes the texts and a recipe en-de for them; returns the recipe's path."""
    corpora: dict[str, list[dict[str, str]]] = {}
    for split, pairs in (("train", train), ("dev", dev)):
        path = folder / f"{split}.tsv.xz"
        path.write_bytes(lzma.compress("".join(f"{source}\t{target}\n" for source, target in pairs).encode()))
        corpora[split] = [{"tsv": str(path), "name": f"Ferry {split}", "licence": "CC0-1.0"}]
    recipe = {
        "name": "tiny",
        "folder": str(folder / "run"),
        "data": {"source": "en", "target": "de", "cleaning": {"max_length_ratio": None}, **corpora},
        "export": {"licence": "CC0-1.0", "folder": str(folder / "bundled")},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "tiny.yaml"


def recipe_of(folder: Path, train: list[tuple[str, str]] = TRAIN, dev: list[tuple[str, str]] = DEV) -> Recipe:
    """As :func:`write_recipe_of`, read back."""
    return load_recipe(write_recipe_of(folder, train, dev))


def texts(corpus: CorpusConfig) -> list[tuple[str, str]]:
    """The pairs in a corpus's files."""
    return [(pair.source, pair.target) for pair in read_all([corpus])]
