"""What the commands of ``ferry-train`` share: their option types, how they speak, and how they end on a mistake."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from model.checkpoint import CheckpointError
from model.ensemble import EnsembleError
from model.precision import Precision, PrecisionError
from tokenizer.normalize import InvalidTextError
from tokenizer.subword import TokenizerError
from training.averaging import AveragingError
from training.config import Recipe
from training.device import DeviceError
from training.evaluate import EvaluationError
from training.explain import ExplainError
from training.export import ExportError
from training.fit_record import FitRecordError
from training.freezing import FreezingError
from training.metrics import MetricsError
from training.preflight import MemoryBudgetError
from training.reading import CorpusError
from training.recipe_file import RecipeError, dump_recipe, load_recipe
from training.run_processes import FolderInUseError
from training.significance import SignificanceError
from training.skipping import TrainingError
from training.state import StateError
from training.study import StudyError
from training.synthesis import SynthesisError
from training.system import UnusableSystemError
from training.transfer import TransferError
from training.word_distillation import WordDistillationError
from training.workers import WorkerError

MENDABLE = (
    RecipeError,
    CorpusError,
    WorkerError,
    TokenizerError,
    InvalidTextError,
    StateError,
    FolderInUseError,
    AveragingError,
    TransferError,
    WordDistillationError,
    FreezingError,
    TrainingError,
    MemoryBudgetError,
    DeviceError,
    MetricsError,
    FitRecordError,
    EvaluationError,
    UnusableSystemError,
    ExplainError,
    ExportError,
    SignificanceError,
    StudyError,
    CheckpointError,
    EnsembleError,
    PrecisionError,
    SynthesisError,
    OSError,
)
INTERRUPTED = 130  # exit status after SIGINT or SIGTERM

notes = Console(stderr=True)

DeviceName = Literal["auto", "cpu", "cuda"]
RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe, a YAML file.")]
CheckpointPath = Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Checkpoint folder.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key, such as training.max_steps=100. Repeatable."),
]
Dump = Annotated[bool, typer.Option("--dump", help="Print the resolved recipe and do nothing else.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the saved training state.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Start anew although a training state is saved.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, nothing else, to standard output.")]
DeviceOption = Annotated[DeviceName, typer.Option(help="Where a CHECKPOINT computes; a recipe names its own.")]
PrecisionOption = Annotated[
    Precision, typer.Option(help="Of the products with weights: bfloat16 and int8 are faster and nearly as good.")
]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads that torch computes with.")]


@contextmanager
def mendable_errors() -> Iterator[None]:
    """What a person can mend ends the command with a sentence; anything else is a fault of ours and shows its trace."""
    try:
        yield
    except MENDABLE as error:
        notes.print(f"error: {_sentence(error)}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.filename2 is None:
        return f"{error.filename}: {error.strerror}"  # as other errors have it, without the number
    return str(error)


def resolve(path: Path, overrides: list[str] | None, dump: bool = False) -> Recipe:
    """The recipe of a file with ``--set`` applied; with ``dump`` it is printed and the command ends."""
    recipe = load_recipe(path, overrides or [])
    if dump:
        typer.echo(dump_recipe(recipe), nl=False)
        raise typer.Exit
    return recipe


def note(text: str) -> None:
    """A line for the person at the terminal, on standard error: standard output is for results."""
    notes.print(text, markup=False, highlight=False, soft_wrap=True)
