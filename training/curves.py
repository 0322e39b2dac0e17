"""``curves.png``: how a run went, at one glance."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from training.metrics import StepMetrics, ValidationMetrics

_TRAIN, _DEV, _QUIET = "#3b6ea5", "#c8553d", "#7a8450"


def draw_curves(steps: Sequence[StepMetrics], validations: Sequence[ValidationMetrics], path: Path) -> None:
    """Draws loss, BLEU, learning rate and speed over the steps; the file is replaced when the new one is whole."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)
    loss, bleu, rate, speed = figure.subplots(2, 2, sharex=True).ravel()
    at, at_dev = [metrics.step for metrics in steps], [metrics.step for metrics in validations]
    _line(loss, at, _smooth([metrics.loss for metrics in steps]), "train, as optimised", _TRAIN)
    _line(loss, at_dev, [metrics.loss for metrics in validations], "dev", _DEV, marker="o")
    _line(bleu, at_dev, [metrics.bleu for metrics in validations], "dev", _DEV, marker="o")
    _line(rate, at, [metrics.learning_rate for metrics in steps], "", _QUIET)
    _line(speed, at, _smooth([metrics.tokens_per_second for metrics in steps]), "", _QUIET)
    for axes, title in (
        (loss, "loss (nats a piece)"),
        (bleu, "BLEU"),
        (rate, "learning rate"),
        (speed, "pieces a second"),
    ):
        axes.set_title(title, loc="left", fontsize=10)
        axes.grid(alpha=0.25)
    for axes in (rate, speed):
        axes.set_xlabel("step")
    loss.legend(frameon=False)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, dpi=110, format="png")
    os.replace(temporary, path)


def _line(axes: Axes, x: Sequence[float], y: Sequence[float], label: str, colour: str, marker: str = "") -> None:
    axes.plot(x, y, label=label or None, color=colour, marker=marker, markersize=3, linewidth=1.4)


def _smooth(values: Sequence[float], decay: float = 0.9) -> list[float]:
    """Exponential moving average that begins without bias; a value that is not finite leaves it where it is."""
    smoothed: list[float] = []
    total = weight = 0.0
    for value in values:
        if math.isfinite(value):
            total, weight = decay * total + value, decay * weight + 1
        smoothed.append(total / weight if weight else math.nan)
    return smoothed
