"""Recipes that train on synthetic text: the given one with other training corpora, a name and a folder of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from training.config import Recipe
from training.corpus_config import CorpusConfig
from training.recipe_file import dump_recipe
from training.state import write_atomically
from training.teachers import Teachers


def extended(recipe: Recipe, suffix: str, train: Sequence[CorpusConfig], user_symbols: Sequence[str] = ()) -> Recipe:
    """``recipe`` with the training corpora ``train``; dev, test and all else stay as they are.

    Its run folder stands beside the given recipe's, its checkpoint in that folder, so that nothing is overwritten.
    ``user_symbols`` are added to the tokenizer's.
    """
    symbols = tuple(dict.fromkeys([*recipe.tokenizer.user_symbols, *user_symbols]))
    changed = recipe.model_copy(
        update={
            "name": f"{recipe.name}-{suffix}",
            "folder": recipe.folder.with_name(f"{recipe.folder.name}-{suffix}"),
            "data": recipe.data.model_copy(update={"train": tuple(train)}),
            "tokenizer": recipe.tokenizer.model_copy(update={"user_symbols": symbols}),
            "export": recipe.export.model_copy(update={"folder": None}),
        }
    )
    return Recipe.model_validate(changed.model_dump())


def provenance(texts: Sequence[tuple[str, str]], verb: str, teachers: Teachers) -> tuple[str, str]:
    """Name and licence of what ``teachers`` made of ``texts``, of which each has a name and a licence, or ""."""
    names = " + ".join(name for name, _ in texts)
    licences = ", ".join(dict.fromkeys(licence for _, licence in texts if licence))
    made = f"{verb} by {teachers.names}"
    return f"{names}, {made}", "; ".join(filter(None, [licences, f"{made}: {teachers.licence}"]))


def write_recipe(recipe: Recipe, path: Path, comment: str) -> None:
    """Writes the recipe, resolved, under a line of comment. Raises OSError."""
    write_atomically(path, f"# {comment}\n{dump_recipe(recipe)}".encode())
