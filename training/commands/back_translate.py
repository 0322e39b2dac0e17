"""``back-translate``: real target text with synthetic sources."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from training.back_translation import (
    FOLDER,
    RECIPE_FILE,
    BackTranslationOptions,
    MonolingualText,
    back_translate,
)
from training.commands.shared import DeviceOption, Dump, Overrides, PrecisionOption, RecipePath, Threads, note
from training.commands.synthetic import Alpha, BeamSize, Output, OverwriteText, Weight, open_recipe, report, resumable
from training.device import pick_device
from training.synthesis import SynthesisError
from training.synthetic_recipe import write_recipe
from training.teachers import open_teachers


def back_translate_command(
    recipe: RecipePath,
    model: Annotated[
        list[Path], typer.Option(metavar="CHECKPOINT", help="Of the reverse direction; several are an ensemble.")
    ],
    text: Annotated[
        Path | None, typer.Option(help="Target-side text, also .gz, .xz, .zst; default: the recipe's targets.")
    ] = None,
    licence: Annotated[str, typer.Option(help="Of --text, for the card of what is trained on it.")] = "",
    sampling: Annotated[bool, typer.Option("--sampling", help="Draw the sources instead of searching them.")] = False,
    temperature: Annotated[float, typer.Option(min=0.01, max=10, help="Of --sampling; below 1 is tamer.")] = 1.0,
    tag: Annotated[str, typer.Option(help="A token before each synthetic source, such as <BT>.")] = "",
    weight: Weight = 1.0,
    beam_size: BeamSize = None,
    alpha: Alpha = None,
    output: Output = None,
    overwrite: OverwriteText = False,
    device: DeviceOption = "auto",
    threads: Threads = None,
    precision: PrecisionOption = "float32",
    overrides: Overrides = None,
    dump: Dump = False,
) -> None:
    """Translate target-side text back, for the recipe's model to learn from (Sennrich et al. 2016).

    Cut off, the same command goes on with the chunk that it was at. Beside the text lies back-translate.yaml, the
    recipe with that text added, for `ferry-train run`.
    """
    with resumable():
        if sampling and (beam_size is not None or alpha is not None):
            raise SynthesisError("--sampling draws, it does not search: leave out --beam-size and --alpha")
        loaded = open_recipe(recipe, overrides, dump, threads)
        data, folder = loaded.data, output or loaded.folder / FOLDER
        teachers = open_teachers(model, data.target, data.source, pick_device(device), loaded.search.token_budget)
        teachers = teachers.in_precision(precision)
        teachers = teachers._replace(system=teachers.system.with_search(beam_size, alpha))
        options = BackTranslationOptions(temperature if sampling else None, tag, weight)
        mono = None if text is None else MonolingualText(text, licence)
        made = back_translate(loaded, teachers, folder, mono, options, note, overwrite=overwrite)
        path = folder / RECIPE_FILE
        comment = f"Written by ferry-train back-translate from {recipe}; model: {teachers.names}."
        write_recipe(made.extended, path, comment)
        report(made.synthesis, folder, path)
