"""Training state: everything a run needs to go on as if it had never stopped. It never leaves ``training/``.

One file, written beside itself and renamed, so that a kill at any moment leaves the old or the new one, whole. It
begins with the SHA-256 of the rest, so that nothing damaged or foreign is ever unpacked.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy
import torch
from safetensors.torch import save as save_tensors
from torch import Tensor

from training.batching import Position
from training.config import Recipe

BEST_WEIGHTS, LAST_WEIGHTS = "best.safetensors", "last.safetensors"  # in the run folder, averaged ones

# Keys of the recipe's training section that may be changed when a run is resumed.
STEERING = {
    "max_steps",
    "max_epochs",
    "learning_rate",
    "minimum_learning_rate",
    "clip_norm",
    "nonfinite_patience",
    "preflight",
    "save_every",
    "samples",
    "early_stopping",
}


class StateError(Exception):
    """A training state cannot be taken up; the message names the file and what would be right."""


class Progress(NamedTuple):
    """How far a run has come."""

    step: int = 0
    target_tokens: int = 0
    seconds: float = 0.0
    best_step: int = 0
    best_figure: float | None = None  # of early stopping's metric, higher being better (a loss is negated)
    best_bleu: float = 0.0
    waited: int = 0  # validations since the best
    skipped: int = 0  # steps that changed nothing, for a loss or gradient that was not finite
    skipped_in_row: int = 0  # of these, since the last step that was taken
    best_mean_of: int = 0  # validations whose mean the best weights are; 0: they are those of best_step

    def with_best(self, figure: float, bleu: float, mean_of: int = 0) -> Progress:
        """With the best weights found now."""
        return self._replace(best_step=self.step, best_figure=figure, best_bleu=bleu, best_mean_of=mean_of)

    def after(self, finite: bool, target_tokens: int, seconds: float) -> Progress:
        """With the figures of one step more, taken or skipped; ``step`` itself is counted when a step begins."""
        if finite:
            found = self._replace(target_tokens=self.target_tokens + target_tokens, skipped_in_row=0)
        else:
            found = self._replace(skipped=self.skipped + 1, skipped_in_row=self.skipped_in_row + 1)
        return found._replace(seconds=self.seconds + seconds)


class TrainingState(TypedDict):
    """The content of the file."""

    recipe: str  # hash of what must not change between start and resume
    progress: tuple[float | None, ...]
    position: tuple[int, ...]
    model: dict[str, Tensor]
    average: dict[str, Tensor]
    optimizer: dict[str, object]
    schedule: dict[str, float | int | None]
    generators: list[dict[str, object]]  # of every rank


def state_file(run_folder: Path) -> Path:
    """Where a run keeps its training state."""
    return run_folder / "state" / "state.pt"


def recipe_identity(recipe: Recipe) -> str:
    """Hash of what a resumed run must share with its start: all that shapes data, model and optimizer.

    What only steers may be changed on the way: a run that diverged goes on at a lower rate.
    """
    shaping = recipe.model_dump_json(
        include={"seed", "data", "tokenizer", "model", "training"}, exclude={"training": STEERING}
    )
    return hashlib.sha256(shaping.encode()).hexdigest()


def save_state(path: Path, state: TrainingState) -> None:
    """Write ``state`` atomically and flush it to disk. Raises OSError (a full disk), leaving the old file whole."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    write_atomically(path, hashlib.sha256(content).digest() + content)


def load_state(path: Path, recipe: str) -> TrainingState:
    """Read a state back. Raises StateError when it is missing, damaged, or of another recipe than ``recipe``."""
    if not path.is_file():
        raise StateError(f"{path} is not there, so there is nothing to resume; start without --resume")
    data = path.read_bytes()
    digest, content = data[:32], data[32:]
    if hashlib.sha256(content).digest() != digest:
        raise StateError(f"{path} is damaged or no training state; start without --resume")
    state: TrainingState = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if state["recipe"] != recipe:
        raise StateError(
            f"{path} belongs to another recipe: its data, tokenizer, model or training section differs; "
            "resume with the recipe it was started with, or start without --resume"
        )
    return state


def generators() -> dict[str, object]:
    """State of this process's random generators: Python, numpy, torch on the CPU and on its GPU."""
    kind, keys, *rest = numpy.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(numpy.array(keys)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def restore_generators(state: Mapping[str, object]) -> None:
    """Set every random generator back to ``state``."""
    random.setstate(state["python"])  # type: ignore[arg-type]
    kind, keys, *rest = state["numpy"]  # type: ignore[misc]
    numpy.random.set_state((kind, keys.numpy(), *rest))  # type: ignore[has-type]
    torch.set_rng_state(state["torch"])  # type: ignore[arg-type]
    if isinstance(state["cuda"], Tensor) and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def seed_generators(seed: int) -> None:
    """Seed every random generator."""
    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def position_of(state: TrainingState) -> Position:
    """The data cursor."""
    return Position(*state["position"])


def write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write weights as safetensors, atomically. Raises OSError."""
    write_atomically(path, save_tensors({name: each.detach().cpu().contiguous() for name, each in weights.items()}))


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` to a sibling, flush it to disk and rename it to ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
