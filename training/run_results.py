"""What a run left in its folder, finished or still going: validations, scores, size of the model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, TypeAdapter, ValidationError
from safetensors import safe_open

from training.fit_record import FitRecord, FitRecordError
from training.metrics import MetricsError
from training.report import METRICS_FILE
from training.scores import SCORES_FILE
from training.state import BEST_WEIGHTS


class DevScore(NamedTuple):
    """One validation."""

    step: int
    loss: float  # nats a target piece
    bleu: float


class ScoreEntry(BaseModel):
    """One test set in ``scores.json``; figures as sacreBLEU gives them."""

    data: str
    split: str
    sentences: int
    bleu: float
    bleu_lc: float
    chrf2: float
    signatures: dict[str, str]
    beam_size: int
    length_penalty: str
    alpha: float
    hypotheses: str | None = None  # the file's name

    @property
    def name(self) -> str:
        return f"{self.data} {self.split}".strip()


def is_fitted(run_folder: Path) -> bool:
    """Whether the run's fit has come to its own end."""
    try:
        return not FitRecord.load(run_folder).interrupted
    except FitRecordError:
        return False


def read_validations(run_folder: Path) -> list[DevScore]:
    """The validations so far; a line that is just being written is left out. Raises MetricsError for foreign lines."""
    path = run_folder / METRICS_FILE
    if not path.exists():
        return []
    lines = path.read_bytes().decode("utf-8", errors="replace").split("\n")[:-1]
    try:
        entries = [json.loads(line) for line in lines]
        return [
            DevScore(entry["step"], _number(entry["loss"]), _number(entry["bleu"]))
            for entry in entries
            if entry["kind"] == "validation"
        ]
    except (ValueError, TypeError, KeyError) as error:
        raise MetricsError(f"{path}: not a line of metrics ({error!r})") from error


def read_scores(folder: Path) -> list[ScoreEntry] | None:
    """The test sets of an evaluation's ``scores.json``; None where there is none, or one cut short."""
    try:
        return TypeAdapter(list[ScoreEntry]).validate_json((folder / SCORES_FILE).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def count_parameters(run_folder: Path) -> int:
    """Numbers in the run's best weights, tied matrices counted once. Raises OSError if they are not there."""
    with safe_open(run_folder / BEST_WEIGHTS, framework="numpy") as weights:
        return sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
