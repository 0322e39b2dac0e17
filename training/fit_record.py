"""What a fit came to, kept in the run folder for the checkpoint's provenance."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError

from model.config import Frozen

FIT_FILE = "fit.json"


class FitRecordError(Exception):
    """The run folder does not say what its fit came to."""


class FitRecord(Frozen):
    """Figures of the whole run, resumptions included."""

    best_step: int
    best_score: float = Field(description="Dev BLEU of the best weights, greedy.")
    best_mean_of: int = Field(0, description="Validations up to best_step whose mean the best weights are; 0: of one.")
    steps: int
    skipped: int = Field(0, description="Steps whose loss or gradient was not finite; they changed nothing.")
    target_tokens: int
    seconds: float
    interrupted: bool
    device: str

    def save(self, run_folder: Path) -> None:
        """Writes ``fit.json``."""
        (run_folder / FIT_FILE).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, run_folder: Path) -> FitRecord:
        """Reads ``fit.json``. Raises FitRecordError if it is absent or damaged."""
        path = run_folder / FIT_FILE
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError as error:
            raise FitRecordError(
                f"{path}: no fit has ended in this run folder; run `ferry-train fit` (--resume if it was cut off)"
            ) from error
        except (OSError, ValidationError) as error:
            raise FitRecordError(f"{path}: cannot be read ({error}); run `ferry-train fit --resume` again") from error
