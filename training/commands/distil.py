"""``distil``: text for a student, translated by its teachers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from training.commands.shared import DeviceOption, Dump, Overrides, PrecisionOption, RecipePath, Threads, note
from training.commands.synthetic import Alpha, BeamSize, Output, OverwriteText, Weight, open_recipe, report, resumable
from training.device import pick_device
from training.distillation import FOLDER, RECIPE_FILE, DistilOptions, Select, distil
from training.synthetic_recipe import write_recipe
from training.teachers import open_teachers


def distil_command(
    recipe: RecipePath,
    teacher: Annotated[list[Path], typer.Option(metavar="CHECKPOINT", help="Repeatable: several are an ensemble.")],
    select: Annotated[
        Select, typer.Option(help="The best hypothesis, or of the n best the one nearest to the reference.")
    ] = "best",
    n_best: Annotated[int | None, typer.Option(min=1, help="For interpolate; default: the beam size.")] = None,
    keep_original: Annotated[
        bool, typer.Option("--keep-original", help="Let the student learn from the recipe's own text too.")
    ] = False,
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
    """Translate the recipe's training text with teachers, for a student to learn from (Kim & Rush 2016).

    Cut off, the same command goes on with the chunk that it was at. Beside the text lies distil.yaml, the student's
    recipe for `ferry-train run`.
    """
    with resumable():
        loaded = open_recipe(recipe, overrides, dump, threads)
        data, folder = loaded.data, output or loaded.folder / FOLDER
        teachers = open_teachers(teacher, data.source, data.target, pick_device(device), loaded.search.token_budget)
        teachers = teachers.in_precision(precision)
        system = teachers.system.with_search(beam_size, alpha)
        if select == "interpolate":
            system = system.with_search(n_best=n_best or system.options.beam_size)
        options = DistilOptions(select, keep_original, weight)
        made = distil(loaded, teachers._replace(system=system), folder, options, note, overwrite=overwrite)
        path = folder / RECIPE_FILE
        write_recipe(made.student, path, f"Written by ferry-train distil from {recipe}; teachers: {teachers.names}.")
        report(made.synthesis, folder, path)
