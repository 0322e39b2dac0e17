"""What ``distil`` and ``back-translate`` share: their options, how they end, and what they say in the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
import typer

from training.commands.shared import INTERRUPTED, mendable_errors, note, resolve
from training.config import Recipe
from training.synthesis import Synthesis

BeamSize = Annotated[int | None, typer.Option(min=1, help="Default: the first checkpoint's.")]
Alpha = Annotated[float | None, typer.Option(min=0, max=5, help="Of the length penalty; default as above.")]
Weight = Annotated[float, typer.Option(min=1e-3, max=1000, help="Of the synthetic text in the new recipe.")]
Output = Annotated[Path | None, typer.Option(help="Folder of the text; default: one in the run folder.")]
OverwriteText = Annotated[bool, typer.Option("--overwrite", help="Replace other text in that folder.")]


@contextmanager
def resumable() -> Iterator[None]:
    """As :func:`mendable_errors`; Ctrl-C ends the command and says how to go on."""
    try:
        with mendable_errors():
            yield
    except KeyboardInterrupt:
        note("stopped; finished chunks are kept: the same command goes on with them")
        raise typer.Exit(INTERRUPTED) from None


def open_recipe(path: Path, overrides: list[str] | None, dump: bool, threads: int | None) -> Recipe:
    """As :func:`resolve`, and torch set to ``threads`` or else to the recipe's."""
    recipe = resolve(path, overrides, dump)
    chosen = threads or recipe.threads
    if chosen is not None:
        torch.set_num_threads(chosen)
    return recipe


def report(synthesis: Synthesis, folder: Path, recipe: Path) -> None:
    """The figures and places of a finished corpus, on standard output."""
    typer.echo(
        f"{synthesis.pairs:,} pairs; left out: {synthesis.untranslated:,} without a translation, "
        f"{synthesis.held_out:,} of dev or test\n"
        f"{synthesis.tokens:,} target tokens in {synthesis.seconds / 60:.1f} minutes: "
        f"{synthesis.tokens_per_second:,.0f} target tokens/s\n"
        f"text: {folder}\nrecipe: {recipe}"
    )
