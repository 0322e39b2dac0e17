"""The figures of a run and their file, ``metrics.jsonl``: a JSON object a line, appended as the run goes."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, NamedTuple, TextIO


class StepMetrics(NamedTuple):
    """What the steps since the last report showed."""

    step: int  # steps taken since the run began
    loss: float  # nats a target piece, as optimised
    tokens: int  # target pieces learned from since the run began
    learning_rate: float
    gradient_norm: float  # before clipping
    tokens_per_second: float  # target pieces
    skipped: int = 0  # steps since the run began whose loss or gradient was not finite


class ValidationMetrics(NamedTuple):
    """What a validation on dev showed."""

    step: int
    epoch: int
    loss: float  # nats a target piece, without label smoothing
    perplexity: float
    bleu: float
    samples: list[tuple[str, str, str]]  # source, reference, hypothesis


class MetricsError(Exception):
    """``metrics.jsonl`` holds a line that is not ours."""


class MetricsLog:
    """``metrics.jsonl`` of a run folder, and its content in memory for the curves."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.steps: list[StepMetrics] = []
        self.validations: list[ValidationMetrics] = []
        self._file: TextIO | None = None

    def start(self, first_step: int) -> None:
        """Begins after ``first_step``: lines of later steps, and a last line cut short, are dropped from the file.

        They were written by a run that went on beyond the state it is resumed from, and will be written again.
        Raises MetricsError for a line that is not ours.
        """
        kept = [line for line in self._complete_lines() if self._load(line, first_step)] if first_step else []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}.new")
        temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        os.replace(temporary, self.path)
        self._file = self.path.open("a", encoding="utf-8")

    def step(self, metrics: StepMetrics) -> None:
        """Appends a line, unless there is one of this step."""
        if not self.steps or self.steps[-1].step < metrics.step:
            self.steps.append(metrics)
            self._append({"kind": "step", **metrics._asdict()})

    def validation(self, metrics: ValidationMetrics) -> None:
        """Appends a line, unless there is one of this step: a state saved just before a validation repeats it."""
        if not self.validations or self.validations[-1].step < metrics.step:
            self.validations.append(metrics)
            self._append({"kind": "validation", **metrics._asdict()})

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _append(self, values: dict[str, object]) -> None:
        if self._file is None:
            raise RuntimeError("the metrics log is not open: call start() first")
        # JSON has no NaN and no infinity.
        finite = {key: None if _not_finite(value) else value for key, value in values.items()}
        self._file.write(json.dumps(finite, ensure_ascii=False) + "\n")
        self._file.flush()

    def _complete_lines(self) -> list[str]:
        if not self.path.exists():
            return []
        text = self.path.read_bytes().decode("utf-8", errors="replace")
        return text.split("\n")[:-1]

    def _load(self, line: str, first_step: int) -> bool:
        """Takes a line into memory; False if it belongs to a step after ``first_step``."""
        try:
            values = json.loads(line)
            if values["step"] > first_step:
                return False
            if values.pop("kind") == "step":
                self.steps.append(StepMetrics(**_with_nan(values)))
            else:
                samples = [(source, reference, text) for source, reference, text in values.pop("samples")]
                self.validations.append(ValidationMetrics(**_with_nan(values), samples=samples))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise MetricsError(f"{self.path}: not a line of metrics: {line[:80]!r} ({error!r})") from error
        return True


def _with_nan(values: dict[str, Any]) -> dict[str, Any]:
    return {key: math.nan if value is None else value for key, value in values.items()}


def _not_finite(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
