"""A report as a picture: SVG, written here, because what draws charts has no place in the serving image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

from app.bench.report import Report

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 300, 64, 16, 40, 72
COLOURS = ("#1f6feb", "#d1242f", "#9a6700", "#57606a")
STYLE = "text{font:12px sans-serif;fill:#57606a}.title{font-size:14px;font-weight:bold;fill:#24292f}"
Points = Sequence[float | None]  # one for each place on the x axis


class Chart(NamedTuple):
    """Lines over named places."""

    title: str
    across: str  # what the x axis shows
    places: Sequence[str]
    series: Mapping[str, Points]
    logarithmic: bool


def svg(report: Report) -> str:
    """Throughput by batch size, latency by length, and the service under load, side by side."""
    charts = _charts(report)
    drawn = "".join(
        f'<g transform="translate({number * WIDTH},0)">{_draw(chart)}</g>' for number, chart in enumerate(charts)
    )
    size = f'width="{len(charts) * WIDTH}" height="{HEIGHT + 24}" viewBox="0 0 {len(charts) * WIDTH} {HEIGHT + 24}"'
    machine = escape(f"{report.model}, {report.precision}, {report.machine}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img"><title>{machine}</title><style>{STYLE}</style>'
        f'<rect width="100%" height="100%" fill="white"/>{drawn}'
        f'<text x="{LEFT}" y="{HEIGHT + 12}">{machine}</text></svg>\n'
    )


def _charts(report: Report) -> list[Chart]:
    rows, lengths = report.throughput, report.latency_by_length
    batches = sorted({row.batch for row in rows})
    speeds: dict[str, Points] = {}
    for lanes in sorted({row.lanes for row in rows}):
        each = {row.batch: row for row in rows if row.lanes == lanes}
        name = "one lane" if lanes == 1 else f"{lanes} lanes"
        speeds[name] = [each[batch].sentences_per_second if batch in each else None for batch in batches]
        speeds[f"floor, {name}"] = [each[batch].floor if batch in each else None for batch in batches]
    waits = {"mean": [row.mean_ms for row in lengths], "p95": [row.latency_ms.p95 for row in lengths]}
    charts = [
        Chart("Sentences a second", "batch", [str(batch) for batch in batches], speeds, False),
        Chart("One sentence alone, ms", "source pieces", [f"{row.pieces:.0f}" for row in lengths], waits, False),
    ]
    if report.service is not None:
        loads = report.service.loads
        spread = {
            name: [None if load.latency_ms is None else float(getattr(load.latency_ms, name)) for load in loads]
            for name in ("p50", "p95", "p99")
        }
        across = f"load, of {report.service.capacity_per_second:.0f} sentences a second"
        charts.append(
            Chart("Under Poisson arrivals, ms", across, [f"{load.share:.0%}" for load in loads], spread, True)
        )
    return charts


def _draw(chart: Chart) -> str:
    ticks = _ticks(chart)
    parts = [f'<text class="title" x="{LEFT}" y="22">{escape(chart.title)}</text>']
    for tick in ticks:
        y = _height(tick, ticks, chart.logarithmic)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#d0d7de"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for number, place in enumerate(chart.places):
        x = _across(number, len(chart.places))
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{escape(place)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text x="{middle:.1f}" y="{HEIGHT - BOTTOM + 36}" text-anchor="middle">{escape(chart.across)}</text>'
    )
    for number, (name, points) in enumerate(chart.series.items()):
        parts.append(_line(name, points, COLOURS[number % len(COLOURS)], number, ticks, chart))
    return "".join(parts)


def _line(name: str, points: Points, colour: str, number: int, ticks: Sequence[float], chart: Chart) -> str:
    """A series with its entry in the legend, which stands below."""
    spots = [
        (_across(place, len(points)), _height(value, ticks, chart.logarithmic))
        for place, value in enumerate(points)
        if value is not None
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in spots)
    x, y = LEFT + number * 90, HEIGHT - BOTTOM + 58
    sample = f'<path d="M{x} {y - 4}h18" stroke="{colour}" stroke-width="2"/>'
    legend = f'<text x="{x + 24}" y="{y}">{escape(name)}</text>'
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>{dots}{sample}{legend}'


def _ticks(chart: Chart) -> list[float]:
    """Round numbers that enclose all values, the lowest first: powers of ten, or steps of 1, 2 or 5 of them from 0."""
    values = [value for points in chart.series.values() for value in points if value is not None and value > 0]
    highest, lowest = max(values, default=1.0), min(values, default=1.0)
    if chart.logarithmic:
        first, last = math.floor(math.log10(lowest)), math.ceil(math.log10(highest))
        return [10.0**power for power in range(first, max(last, first + 1) + 1)]
    size = 10.0 ** math.floor(math.log10(highest / 2))
    step = next(size * factor for factor in (1, 2, 5, 10) if highest <= 6 * size * factor)
    return [step * count for count in range(math.ceil(highest / step) + 1)]


def _height(value: float, ticks: Sequence[float], logarithmic: bool) -> float:
    if logarithmic:
        value, ticks = math.log10(max(value, ticks[0])), [math.log10(tick) for tick in ticks]
    share = (value - ticks[0]) / (ticks[-1] - ticks[0])
    return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)


def _across(number: int, places: int) -> float:
    return LEFT + (number + 0.5) / places * (WIDTH - LEFT - RIGHT)
