"""``compare``: train a table of variants of a recipe."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from training.commands.shared import INTERRUPTED, Overrides, RecipePath, mendable_errors, note
from training.comparison import COMPARE_FOLDER, PlannedRun, parse_rows, plan, train
from training.comparison_plot import draw_comparison
from training.comparison_table import gather, markdown, rich_table
from training.recipe_file import load_recipe
from training.run_processes import stop_signals
from training.state import write_atomically

Vary = Annotated[
    list[str] | None,
    typer.Option("--vary", metavar="KEY=V1,V2,...", help="A row for each value; several make the product. Repeatable."),
]
Rows = Annotated[
    list[str] | None,
    typer.Option("--row", metavar='"NAME: KEY=V KEY=V"', help="A row beside the unchanged baseline. Repeatable."),
]


def compare_command(
    recipe: RecipePath,
    vary: Vary = None,
    row: Rows = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs a row, with seeds counted up from the recipe's.")] = 1,
    overrides: Overrides = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time; --set threads=N gives each its threads.")] = 1,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the table; default: compare in the run folder.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs and do nothing else.")] = False,
) -> None:
    """Train variants of a recipe side by side: scores over seeds, size, speed and time as a table and a picture.

    A key may be given by its last word where that is unique: cell is model.cell. Runs that are finished are not
    repeated, runs that were cut off go on: after an interruption, give the same command again.
    """
    with mendable_errors():
        rows = parse_rows(vary or [], row or [])
        runs = plan(recipe, overrides or [], rows, seeds, jobs)
        if dry_run:
            _console().print(_listing(runs))
            return
        with stop_signals() as stop:
            errors = train(runs, jobs, note, lambda: not stop.is_set())
        comparison = gather(runs, errors, _command_line(recipe, vary, row, seeds, overrides, jobs))
        folder = output or load_recipe(recipe, overrides or []).folder / COMPARE_FOLDER
        write_atomically(folder / "compare.json", (comparison.model_dump_json(indent=2) + "\n").encode())
        write_atomically(folder / "compare.md", markdown(comparison).encode())
        draw_comparison(comparison, folder / "compare.png")
        _console().print(rich_table(comparison))
        note(f"table: {folder}/compare.json, compare.md and compare.png")
        if stop.is_set():
            note("stopped by a signal; the same command goes on")
            raise typer.Exit(INTERRUPTED)
        if comparison.failures:
            raise typer.Exit(1)


def _console() -> Console:
    """A file or a pipe has no width; the default of 80 columns would fold the figures."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


def _listing(runs: Sequence[PlannedRun]) -> Table:
    table = Table("row", "seed", "folder", "state")
    for run in runs:
        table.add_row(Text(run.row.name), str(run.recipe.seed), str(run.recipe.folder), run.state)
    return table


def _command_line(
    recipe: Path,
    vary: Sequence[str] | None,
    rows: Sequence[str] | None,
    seeds: int,
    overrides: Sequence[str] | None,
    jobs: int,
) -> str:
    words = ["ferry-train", "compare", str(recipe)]
    for option, values in (("--vary", vary), ("--row", rows), ("--set", overrides)):
        words += [word for value in values or () for word in (option, value)]
    words += ["--seeds", str(seeds), *(["--jobs", str(jobs)] if jobs > 1 else [])]
    return shlex.join(words)
