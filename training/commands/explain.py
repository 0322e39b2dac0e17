"""``explain``: pictures of what goes on inside a model while it translates one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from training.commands.shared import AsJson, mendable_errors, note
from training.explain_figures import figures
from training.explain_report import write_explanation
from training.explain_sentence import explain_checkpoints

EXPLAIN_FOLDER = Path("runs/explain")


def explain_command(
    checkpoints: Annotated[list[Path], typer.Argument(metavar="CHECKPOINT...", help="Checkpoint folders to compare.")],
    text: Annotated[str, typer.Option(help="The sentence to translate.")],
    target: Annotated[str | None, typer.Option(help="Its translation; default: the model's own.")] = None,
    layer: Annotated[
        str, typer.Option(help="Whose units are drawn: encoder.N.forward, encoder.N.backward or decoder.N.")
    ] = "decoder.1",
    output: Annotated[Path | None, typer.Option(help=f"Folder of the pictures; default: {EXPLAIN_FOLDER}.")] = None,
    as_json: AsJson = False,
) -> None:
    """Draw attention, gates and gradients for a sentence, and explain them in explain.md.

    Several checkpoints share one picture of how their gradients fade with distance. With --json the figures are
    printed, and pictures drawn only where --output says so.
    """
    with mendable_errors():
        models = explain_checkpoints(checkpoints, text, target, layer)
        if len(models) > 1 and target is None:
            note("each model explains its own translation; give --target to compare them on the same one")
        if output is not None or not as_json:
            folder = output or EXPLAIN_FOLDER
            write_explanation(models, layer, folder)
            note(f"explained: {folder / 'explain.md'}, and the pictures beside it")
        if as_json:
            entries = [figures(explained) for explained in models]
            typer.echo(json.dumps(entries[0] if len(entries) == 1 else entries, ensure_ascii=False))
