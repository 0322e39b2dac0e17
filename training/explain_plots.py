"""The pictures of an explained sentence. Colours are told apart by the colour-blind too (Okabe & Ito 2008; viridis)."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from training.explain import DIRECTIONS, LayerActivity
from training.explain_sentence import Explained
from training.reach import Reach

_BLUE, _ORANGE, _GREEN, _PINK, _SKY, _RED = "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"
_MODELS = (_BLUE, _RED, _GREEN, _ORANGE, _PINK, _SKY)
_GATES = {"input": _ORANGE, "forget": _BLUE, "output": _GREEN, "reset": _PINK, "update": _BLUE}
_STYLES = ("solid", "dashed", "dotted", "dashdot")
_PIECE = 0.24  # inches that a piece takes on an axis
_LABELLED = 120  # pieces on an axis that are all labelled
_DECADES = 8  # shown on a scale of norms
_BELOW_ALL = 1e-12  # a share of the gradient that is not worth a picture's height


def draw_attention(explained: Explained, path: Path) -> None:
    """The weights with which each target position looks at each source position."""
    figure = _figure(len(explained.source_pieces), len(explained.target_pieces))
    axes = figure.subplots()
    image = axes.imshow(_array(explained.explanation.attention), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    figure.colorbar(image, ax=axes, label="attention weight", pad=0.02, fraction=0.05)
    _pieces(axes.xaxis, explained.source_pieces, "source piece attended to")
    _pieces(axes.yaxis, explained.target_pieces, "target piece predicted")
    _title(figure, explained, "attention (mean of the heads)")
    _save(figure, path)


def draw_gates(explained: Explained, path: Path) -> None:
    """The mean activation of each gate of each layer at every position, and of the hidden state's size."""
    layers = explained.explanation.layers
    encoder = [layer for layer in layers if layer.name.startswith("encoder")]
    longest = max(len(explained.source_pieces), len(explained.target_pieces))
    figure = _blank(min(1.6 + _PIECE * longest, 40), 1.2 + 1.5 * len(layers))
    panels = figure.subplots(len(layers), 1, squeeze=False)[:, 0]
    for axes, layer in zip(panels, layers, strict=True):
        for gate, values in layer.gates.items():
            axes.plot(_array(values.mean(dim=1)), label=f"{gate} gate", color=_GATES[gate], marker="o", markersize=3)
        size = _array(layer.hidden.abs().mean(dim=1))
        axes.plot(size, label="|hidden|", color="#666666", linestyle="dashed", linewidth=1.2)
        axes.set_ylim(0, max(1.0, 1.05 * float(size.max())))
        axes.set_title(layer.name if layer.gates else f"{layer.name} (no gates)", loc="left", fontsize=10)
        axes.grid(alpha=0.25)
        last_of_side = layer is encoder[-1] or layer is layers[-1]
        pieces = explained.source_pieces if layer in encoder else explained.target_inputs
        side = "source piece read" if layer in encoder else "target piece read"
        _pieces(axes.xaxis, pieces if last_of_side else [""] * len(pieces), side if last_of_side else "")
        axes.set_xlim(-0.5, longest - 0.5)
    handles = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside upper right", ncols=len(handles), frameon=False, fontsize=9)
    figure.supylabel("mean activation over the layer's units (0 closed, 1 open)", fontsize=10)
    _title(figure, explained, "gates")
    _save(figure, path)


def draw_units(explained: Explained, layer: LayerActivity, path: Path) -> None:
    """Every unit of one layer over time: its gates, then its hidden state; those that keep their past stand above."""
    pieces = explained.source_pieces if layer.name.startswith("encoder") else explained.target_inputs
    keeping = next((values for gate, values in layer.gates.items() if gate in ("forget", "update")), layer.hidden)
    order = keeping.mean(dim=0).argsort(descending=True)
    panels = len(layer.gates) + 1
    figure = _blank(min(max(2.2 + _PIECE * len(pieces), 6), 40), 1.3 + 2.3 * panels)
    column = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
    for axes, (gate, values) in zip(column, layer.gates.items(), strict=False):
        shown = _array(values[:, order].t())
        image = axes.imshow(shown, cmap="viridis", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        figure.colorbar(image, ax=axes, label=f"{gate} gate", pad=0.02, fraction=0.05)
    bound = float(layer.hidden.abs().max()) or 1.0
    shown = _array(layer.hidden[:, order].t())
    image = column[-1].imshow(shown, cmap="PuOr", vmin=-bound, vmax=bound, aspect="auto", interpolation="nearest")
    figure.colorbar(image, ax=column[-1], label="hidden state", pad=0.02, fraction=0.05)
    for axes in column:
        axes.set_ylabel("unit, sorted", fontsize=9)
        axes.tick_params(axis="x", labelbottom=axes is column[-1])
    _pieces(column[-1].xaxis, pieces, "piece read")
    _title(figure, explained, f"units of {layer.name}")
    _save(figure, path)


def draw_gradients(explained: Explained, path: Path) -> None:
    """The full model: the gradient of each position's loss with respect to every source and target input."""
    explanation = explained.explanation
    columns = len(explained.source_pieces), len(explained.target_inputs)
    figure = _figure(sum(columns) + 8, columns[1])
    source, target = figure.subplots(1, 2, width_ratios=columns)
    norms = (explanation.source_gradients, explanation.target_gradients)
    scale = _scale(norms)
    for axes, values, inputs, side in (
        (source, norms[0], explained.source_pieces, "source piece read; attention is a short cut"),
        (target, norms[1], explained.target_inputs, "target piece read; no short cut"),
    ):
        image = _norms(axes, values, scale)
        _pieces(axes.xaxis, inputs, side)
        _pieces(axes.yaxis, explained.target_pieces, "target piece predicted")
    target.set_ylabel("")
    target.tick_params(axis="y", labelleft=False)
    figure.colorbar(image, ax=target, label="gradient norm of the piece's loss (nats)", pad=0.02, fraction=0.05)
    _title(figure, explained, "full model, |d loss / d embedded input|")
    _save(figure, path)


def draw_recurrence(explained: Explained, layer: LayerActivity, path: Path) -> None:
    """One layer alone: the gradient of its state at each position with respect to its input at every other.

    All other inputs are held fixed, and nothing between layers takes part (Hochreiter 1991; Pascanu et al. 2013).
    """
    pieces = explained.source_pieces if layer.name.startswith("encoder") else explained.target_inputs
    figure = _figure(len(pieces), len(pieces))
    axes = figure.subplots()
    image = _norms(axes, layer.recurrence, _scale([layer.recurrence]))
    figure.colorbar(image, ax=axes, label="Frobenius norm of d h_t / d x_s", pad=0.02, fraction=0.05)
    _pieces(axes.xaxis, pieces, "piece read at s")
    _pieces(axes.yaxis, pieces, "state after piece t")
    _title(figure, explained, f"recurrent path of {layer.name} alone, no attention, no residual")
    _save(figure, path)


def draw_distances(models: Sequence[Explained], path: Path) -> None:
    """What is left of the gradient by distance, in each layer alone and in the full decoder, model beside model."""
    figure = _blank(11, 8)
    panels = figure.subplots(2, 2, sharey=True).ravel()
    titles = ("encoder, forward", "encoder, backward", "decoder")
    for axes, title in zip(panels, titles, strict=False):
        axes.set_title(f"recurrent path alone: {title}", loc="left", fontsize=10)
    panels[3].set_title("full model: loss to earlier target pieces", loc="left", fontsize=10)
    for number, explained in enumerate(models):
        colour = _MODELS[number % len(_MODELS)]
        for layer in explained.explanation.layers:
            _, depth, *way = layer.name.split(".")
            axes = panels[{"forward": 0, "backward": 1}.get("".join(way), 2)]
            _curve(axes, layer.reach, colour, f"{explained.label}, layer {depth}", int(depth) - 1)
        _curve(panels[3], Reach.of(explained.explanation.target_gradients), colour, explained.label, 0)
    for axes in panels:
        axes.set_yscale("log")
        axes.grid(alpha=0.25)
        axes.axhline(0.5, color="#999999", linewidth=0.8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("distance t - s (positions)")
        axes.legend(frameon=False, fontsize=8, loc="lower left")
    panels[0].set_ylim(bottom=max(_BELOW_ALL, panels[0].get_ylim()[0]))
    figure.supylabel("gradient left, as a share of that at distance 0 (geometric mean over positions t)", fontsize=10)
    figure.supxlabel(
        f"Norm of d h_t / d x_s inside one layer, from {DIRECTIONS} random directions; attention and residual paths"
        " take no part (Hochreiter 1991; Bengio et al. 1994; Pascanu et al. 2013).\n"
        "Lower right: norm of d loss_t / d embedded target input s, through all layers. Grey line: one half.",
        fontsize=8,
    )
    _save(figure, path)


def _curve(axes: Axes, reach: Reach, colour: str, label: str, style: int) -> None:
    line = _STYLES[style % len(_STYLES)]
    axes.plot(_array(reach.curve), color=colour, linestyle=line, label=label, linewidth=1.6, marker="o", markersize=2.5)


def _norms(axes: Axes, norms: Tensor, scale: LogNorm) -> AxesImage:
    shown = np.ma.masked_less_equal(_array(norms), 0)
    axes.set_facecolor("#f2f2f2")
    return axes.imshow(shown, cmap="viridis", norm=scale, aspect="auto", interpolation="nearest")


def _scale(norms: Iterable[Tensor]) -> LogNorm:
    """One logarithmic scale for several maps, from their largest norm down."""
    values = np.concatenate([_array(part).ravel() for part in norms])
    positive = values[values > 0]
    largest = float(positive.max()) if positive.size else 1.0
    smallest = float(positive.min()) if positive.size else largest
    return LogNorm(max(smallest, largest * 10**-_DECADES) * 0.999, largest)


def _pieces(axis: Axis, pieces: Sequence[str], label: str) -> None:
    """Labels an axis with pieces, each where it stands; of very many only some."""
    every = math.ceil(len(pieces) / _LABELLED)
    rotation = 90 if isinstance(axis, XAxis) else 0
    # A piece may hold dollars, between which matplotlib would set a formula.
    axis.set_ticks(range(0, len(pieces), every), list(pieces[::every]), parse_math=False, fontsize=9, rotation=rotation)
    axis.set_label_text(label, fontsize=10)


def _title(figure: Figure, explained: Explained, what: str) -> None:
    figure.suptitle(f"{explained.label}: {what}", x=0.01, ha="left", fontsize=11)


def _figure(columns: int, rows: int) -> Figure:
    """A figure whose maps of ``rows`` by ``columns`` pieces have readable labels."""
    return _blank(min(max(2.6 + _PIECE * columns, 5), 40), min(max(2.2 + _PIECE * rows, 3.5), 40))


def _blank(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _array(values: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return values.double().numpy()


def _save(figure: Figure, path: Path) -> None:
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, dpi=110, format="png")
    os.replace(temporary, path)
