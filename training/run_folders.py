"""Many runs beside each other: a folder for each, tokenizers and encoded text shared where their settings are equal.

::

    SHARED/tokenizers/HASH/tokenizer    one for each set of settings that decide a tokenizer
    SHARED/corpus/HASH                  encoded text, which names itself by its content
    SHARED/RUN/{tokenizer,corpus}       links to those
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from training.config import Recipe
from training.prepare import CORPUS_FOLDER, TOKENIZER_FOLDER
from training.recipe_file import dump_recipe
from training.run_processes import KeepGoing, exclusive, run_command
from training.run_results import is_fitted
from training.state import state_file, write_atomically

RECIPE_FILE = "recipe.yaml"
# What neither the weights nor the scores of a run depend on.
INCIDENTAL = frozenset({"name", "folder", "threads", "export", "tune"})


def fit_key(recipe: Recipe) -> str:
    """Equal for recipes whose fits are the same: 12 hexadecimal digits."""
    values = recipe.model_dump(mode="json", exclude={*INCIDENTAL, "search"})
    return _hash({**values, "data": _data(recipe, "test")})


def evaluation_key(recipe: Recipe) -> str:
    """Equal for recipes that measure the same weights in the same way: 8 hexadecimal digits."""
    values = recipe.model_dump(mode="json", include={"search": True, "data": {"test"}})
    return _hash(values)[:8]


def placed(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with another run folder; an export stays inside it."""
    export = recipe.export.model_copy(update={"folder": None})
    return recipe.model_copy(update={"folder": folder, "export": export})


def fit_in_folder(
    recipe: Recipe, shared: Path, lock: int, keep_going: KeepGoing, message: Callable[[str], None]
) -> None:
    """Fits the recipe in its own folder, goes on where an earlier fit stopped, or finds it finished.

    ``lock`` is that of the folder, from :func:`training.run_processes.exclusive`. Raises Stopped or ProcessError.
    """
    folder = recipe.folder
    if is_fitted(folder):
        return
    tokenizer = _shared_tokenizer(recipe, shared, keep_going, message)
    (shared / CORPUS_FOLDER).mkdir(parents=True, exist_ok=True)
    _link(folder / TOKENIZER_FOLDER, tokenizer)
    _link(folder / CORPUS_FOLDER, shared / CORPUS_FOLDER)
    resume = ["--resume"] if state_file(folder).is_file() else []
    run_command(["fit", write_recipe(recipe, folder), *resume], folder, lock, keep_going)


def write_recipe(recipe: Recipe, folder: Path) -> Path:
    """Writes ``recipe.yaml`` into ``folder``, so that the run there can be repeated, evaluated and exported."""
    path = folder / RECIPE_FILE
    write_atomically(path, dump_recipe(recipe).encode())
    return path


def _shared_tokenizer(recipe: Recipe, shared: Path, keep_going: KeepGoing, message: Callable[[str], None]) -> Path:
    """The tokenizer folder for the recipe, made unless an earlier run has."""
    values = recipe.model_dump(mode="json", include={"seed", "tokenizer"})
    data = _data(recipe, "dev", "test")
    del data["augmentation"]  # a tokenizer is trained on the text as it is
    home = shared / "tokenizers" / _hash({**values, "data": data})
    with exclusive(home, keep_going, message) as lock:
        if not (home / TOKENIZER_FOLDER).is_dir():
            path = write_recipe(placed(recipe, home), home)
            run_command(["tokenizer", path], home, lock, keep_going)
    return home / TOKENIZER_FOLDER


def _data(recipe: Recipe, *unread: str) -> dict[str, object]:
    """The section ``data`` without what decides nothing: text not learned from, unless pairs are left out for it."""
    unused = {"workers"} if recipe.data.drop_overlap else {"workers", *unread}
    return recipe.data.model_dump(mode="json", exclude=unused)


def _link(link: Path, target: Path) -> None:
    """A relative link, so that the whole can be moved."""
    if not link.is_symlink():
        link.symlink_to(os.path.relpath(target, link.parent), target_is_directory=True)


def _hash(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
