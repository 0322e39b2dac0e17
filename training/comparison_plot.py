"""``compare.png``: score against cost, and how each row learned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from statistics import fmean

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from training.comparison_table import Column, Comparison, RunFigures, TableRow, mean_of, score_columns
from training.pictures import save_figure

_MARKERS = "osD^vP"


def draw_comparison(comparison: Comparison, path: Path) -> bool:
    """Draws score over minutes, score over parameters where they differ, and the curves on dev.

    The score is BLEU on the first test set, or on dev without one; bars are the deviation over seeds. False, and
    nothing drawn, where no run has finished.
    """
    rows = [row for row in comparison.rows if row.finished]
    if not rows:
        return False
    columns = score_columns(comparison)
    score = columns[1] if len(columns) > 1 else columns[0]
    sizes = {figures.parameters for row in rows for figures in row.finished}
    costs: list[tuple[str, Callable[[RunFigures], float]]] = [("minutes of training", lambda figures: figures.minutes)]
    if len(sizes) > 1:
        costs.append(("million parameters", lambda figures: figures.parameters / 1e6))
    figure = Figure(figsize=(5.2 * (len(costs) + 1), 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    *scatters, curves = figure.subplots(1, len(costs) + 1, squeeze=False)[0]
    for axes, (label, cost) in zip(scatters, costs, strict=True):
        _scatter(axes, rows, score, cost, label)
    _curves(curves, rows)
    handles, labels = curves.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    save_figure(figure, path)
    return True


def _scatter(
    axes: Axes, rows: Sequence[TableRow], score: Column, cost: Callable[[RunFigures], float], label: str
) -> None:
    for row, colour, marker in zip(rows, _colours(len(rows)), cycle(_MARKERS), strict=False):
        at, found = mean_of(row, cost), mean_of(row, score.value)
        if at is None or found is None:
            continue
        axes.errorbar(
            at.mean,
            found.mean,
            xerr=at.deviation,
            yerr=found.deviation,
            color=colour,
            marker=marker,
            markersize=6,
            capsize=3,
        )
    axes.set_xlabel(label)
    _style(axes, score.title)


def _curves(axes: Axes, rows: Sequence[TableRow]) -> None:
    """The mean over seeds as a line, each seed as a faint one."""
    for row, colour, marker in zip(rows, _colours(len(rows)), cycle(_MARKERS), strict=False):
        by_step: dict[int, list[float]] = {}
        for figures in row.finished:
            for validation in figures.curve:
                by_step.setdefault(validation.step, []).append(validation.bleu)
            if len(row.finished) > 1:
                steps, scores = [at.step for at in figures.curve], [at.bleu for at in figures.curve]
                axes.plot(steps, scores, color=colour, alpha=0.25, linewidth=0.8)
        # A seed that stopped early has no say in later steps, which would make the mean jump.
        whole = {step: found for step, found in sorted(by_step.items()) if len(found) == len(row.finished)}
        means = [fmean(found) for found in whole.values()]
        axes.plot(list(whole), means, label=row.name, color=colour, marker=marker, markersize=3.5, linewidth=1.5)
    axes.set_xlabel("step")
    _style(axes, "dev BLEU, greedy")


def _colours(count: int) -> list[tuple[float, ...]]:
    palette = colormaps["tab10" if count <= 10 else "tab20"]
    return [palette(number) for number in islice(cycle(range(palette.N)), count)]


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10)
    axes.grid(alpha=0.25)
