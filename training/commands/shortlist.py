"""``shortlist``: give a checkpoint a vocabulary shortlist."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from model.checkpoint import SHORTLIST
from training.commands.shared import CheckpointPath, mendable_errors, note
from training.config import ShortlistConfig
from training.corpus_config import CorpusConfig
from training.reading import CorpusError
from training.shortlist import add_shortlist
from training.workers import available_cores

DEFAULTS = ShortlistConfig()


def shortlist_command(
    checkpoint: CheckpointPath,
    source: Annotated[
        list[Path], typer.Option(help="Training text, also .gz, .xz, .zst. Repeatable, as often as --target.")
    ],
    target: Annotated[list[Path], typer.Option(help="Its translation, line by line.")],
    name: Annotated[list[str] | None, typer.Option(help="What the card calls the text; default: its file.")] = None,
    size: Annotated[int, typer.Option(min=1, help="Target pieces that a source piece allows.")] = DEFAULTS.size,
    frequent: Annotated[int, typer.Option(min=0, help="Pieces that are always allowed.")] = DEFAULTS.frequent,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that encode; default: the cores.")] = None,
) -> None:
    """Learn a vocabulary shortlist from the text a checkpoint was trained on, and put it into the checkpoint.

    The checkpoint is replaced as a whole, weights and tokenizer unchanged; its card says so. What the shortlist costs:
    `ferry-train evaluate CHECKPOINT --source F --reference F`, with and without --shortlist.
    """
    with mendable_errors():
        names = name or [""] * len(source)
        if not len(source) == len(target) == len(names):
            raise CorpusError("--source, --target and, if given, --name go together: give each as often as the others")
        texts = zip(source, target, names, strict=True)
        corpora = [CorpusConfig(source=one, target=other, name=label) for one, other, label in texts]
        config = ShortlistConfig(size=size, frequent=frequent)
        made = add_shortlist(checkpoint, corpora, config, workers or available_cores())
        file = checkpoint / SHORTLIST
        note(
            f"{file}: {len(made.ids):,} pieces for {len(made.offsets) - 1:,}, {len(made.always):,} always, "
            f"{file.stat().st_size / 1e6:.1f} MB"
        )
