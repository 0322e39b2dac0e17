"""A report as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.table import Table

from app.bench.decoding import Latency, Throughput
from app.bench.load import Load, Percentiles
from app.bench.report import Report
from app.bench.service import ServiceFigures

BAR = 24  # characters of the longest bar


def show(report: Report, console: Console) -> None:
    """Print all of a report."""
    console.print(_facts(report))
    _section(console, _throughput(report.throughput))
    _section(console, _latency((report.latency, *report.latency_by_length)))
    if report.service is not None:
        _section(console, _service(report.service))


def _section(console: Console, table: RenderableType) -> None:
    console.print()
    console.print(table)


def _facts(report: Report) -> Table:
    table = Table(show_header=False, box=None)
    lanes = "one lane" if report.lanes == 1 else f"{report.lanes} lanes"
    rates = f"{report.sentences_per_second:.1f} at batch {report.batch_size} in {lanes}"
    share = report.sentences_per_second / report.floor_sentences_per_second
    for name, value in (
        ("machine", str(report.machine)),
        ("model", f"{report.model}: {report.shape}; beam {report.beam_size}"),
        ("text", report.text),
        ("precision", _precision(report)),
        ("sentences_per_second", rates),
        ("floor_sentences_per_second", f"{report.floor_sentences_per_second:.1f}, of which {share:.0%} are reached"),
        ("latency_ms_mean", f"{report.latency_ms_mean:.1f}"),
    ):
        table.add_row(name, value)
    return table


def _precision(report: Report) -> str:
    tried = ", ".join(f"{name} {milliseconds:.2f} ms" for name, milliseconds in report.precision_ms.items())
    chosen = report.precision + (", shortlist" if report.shortlist else "")
    return f"{chosen}; a step took {tried}" if tried else chosen


def _throughput(rows: Sequence[Throughput]) -> Table:
    table = _table(
        "Throughput by batch size", "batch", "lanes", "sentences/s", "slowest", "fastest", "floor", "of floor"
    )
    best = max(row.sentences_per_second for row in rows)
    for row in rows:
        speeds = (row.sentences_per_second, row.slowest, row.fastest, row.floor)
        share = f"{row.sentences_per_second / row.floor:.0%}"
        table.add_row(
            str(row.batch), str(row.lanes), *map(_figure, speeds), share, _bar(row.sentences_per_second / best)
        )
    return table


def _latency(rows: Sequence[Latency]) -> Table:
    table = _table("Latency of one sentence, ms", "pieces", "sentences", "mean", *Percentiles.model_fields)
    worst = max(row.mean_ms for row in rows)
    for row in rows:
        cells = (f"{row.pieces:.1f}", str(row.sentences), _figure(row.mean_ms), *_spread(row.latency_ms))
        table.add_row(*cells, _bar(row.mean_ms / worst))
    table.caption = "the first row: sentences of all lengths"
    return table


def _service(figures: ServiceFigures) -> Table:
    table = _table(
        f"Service under Poisson arrivals, {figures.seconds:g} s each; capacity {figures.capacity_per_second:.1f}/s,"
        f" {figures.capacity_after_per_second:.1f}/s after them",
        *("capacity", "offered/s", "answered/s", "429", "504", "failed"),
        *(f"{name} ms" for name in Percentiles.model_fields),
    )
    for load in figures.loads:
        rates = (load.offered_per_second, load.answered_per_second)
        table.add_row(f"{load.share:.0%}", *map(_figure, rates), *_losses(load), *_spread(load.latency_ms))
    table.caption = (
        f"latency from the moment at which a request was due; the queue takes {figures.queue_tokens:,} tokens"
    )
    return table


def _losses(load: Load) -> list[str]:
    return [str(load.refused), str(load.late), str(load.failed)]


def _spread(spread: Percentiles | None) -> list[str]:
    if spread is None:
        return ["-" for _ in Percentiles.model_fields]
    return [_figure(value) for value in (spread.p50, spread.p95, spread.p99, spread.worst)]


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left", box=None)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _figure(value: float) -> str:
    return f"{value:,.1f}"


def _bar(share: float) -> str:
    return "█" * max(1, round(share * BAR))
