"""The figures of a run: files that survive a resumption, a picture, and samples that a person sees."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from training.metrics import MetricsError, MetricsLog, StepMetrics, ValidationMetrics
from training.report import Reporter


def step(number: int, loss: float = 2.0) -> StepMetrics:
    return StepMetrics(number, loss, number * 100, 1e-3, 0.5, 1234.5)


def validation(number: int) -> ValidationMetrics:
    return ValidationMetrics(number, 1, 1.5, math.exp(1.5), 12.25, [("a [b] c", "Ä B", "ä | b")])


def lines(folder: Path) -> list[tuple[str, int]]:
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    return [(line["kind"], line["step"]) for line in map(json.loads, text.splitlines())]


def report(folder: Path, first_step: int, steps: range, validations: tuple[int, ...] = ()) -> str:
    output = io.StringIO()
    reporter = Reporter(folder, Console(file=output, width=200))
    reporter.start(10, first_step)
    for number in steps:
        reporter.step(step(number))
        if number in validations:
            reporter.validation(validation(number))
    reporter.close()
    return output.getvalue()


def test_a_run_leaves_metrics_curves_and_tensorboard(tmp_path: Path) -> None:
    report(tmp_path, 0, range(1, 4), validations=(3,))
    assert lines(tmp_path) == [("step", 1), ("step", 2), ("step", 3), ("validation", 3)]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_samples_are_shown_as_written(tmp_path: Path) -> None:
    shown = report(tmp_path, 0, range(1, 2), validations=(1,))
    assert "a [b] c" in shown
    assert "ä | b" in shown
    assert "BLEU 12.25" in shown


def test_a_resumed_run_neither_loses_nor_repeats_lines(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    report(whole, 0, range(1, 9), validations=(4, 8))
    report(parts, 0, range(1, 7), validations=(4,))
    report(parts, 4, range(5, 9), validations=(8,))
    assert (parts / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_a_validation_repeated_after_a_resumption_stands_once(tmp_path: Path) -> None:
    report(tmp_path, 0, range(1, 5), validations=(4,))
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.start(4)
    log.validation(validation(4))
    log.close()
    assert lines(tmp_path).count(("validation", 4)) == 1


def test_a_line_cut_short_by_a_kill_is_dropped(tmp_path: Path) -> None:
    report(tmp_path, 0, range(1, 4))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "st')
    report(tmp_path, 3, range(4, 5))
    assert lines(tmp_path) == [("step", number) for number in range(1, 5)]


def test_a_new_run_begins_a_new_file(tmp_path: Path) -> None:
    report(tmp_path, 0, range(1, 6))
    report(tmp_path, 0, range(1, 2))
    assert lines(tmp_path) == [("step", 1)]


def test_a_diverged_loss_stays_valid_json_and_is_read_back(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.start(0)
    log.step(step(1, loss=math.inf))
    log.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["loss"] is None
    again = MetricsLog(tmp_path / "metrics.jsonl")
    again.start(1)
    again.close()
    assert math.isnan(again.steps[0].loss)


def test_a_foreign_line_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("[]\n")
    with pytest.raises(MetricsError, match=r"metrics\.jsonl"):
        MetricsLog(tmp_path / "metrics.jsonl").start(1)
