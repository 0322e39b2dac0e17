"""What a soak found: verdicts, latencies and memory, as figures and as a picture."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from app.bench.load import Percentiles, percentiles
from tests.bench.soak_traffic import Request

FLAT = 0.05  # share by which memory may change
PARTS = 10  # of the time; the first is the warm-up
BINS = 60  # of the time, in the picture


class Memory(NamedTuple):
    """Resident memory of the service at one moment."""

    at: float  # seconds after the soak began
    bytes: int


class Soak(NamedTuple):
    """Everything that was seen."""

    seconds: float  # until the last request had ended
    requests: Sequence[Request]
    memory: Sequence[Memory]
    reloads: Sequence[float]  # when
    queue_tokens: float  # left in the queue at the end
    machine: str


class Figures(NamedTuple):
    """A soak in figures."""

    machine: str
    seconds: float
    requests: int
    per_second: float
    reloads: int
    verdicts: dict[str, dict[str, int]]  # by kind of request
    latency_ms: dict[str, dict[str, float]]  # by kind, of those that were answered
    lost: int
    wrong: int
    queue_tokens: float
    memory_mb: list[float]  # median of each tenth of the time
    memory_change: float  # of the last tenth, against the second: the first is the warm-up
    flat: bool

    @property
    def passed(self) -> bool:
        """Whether memory was flat and nothing was lost or wrong."""
        return self.flat and not self.lost and not self.wrong and not self.queue_tokens


def figures(soak: Soak) -> Figures:
    """Count."""
    kinds = sorted({request.kind for request in soak.requests})
    of_kind = {kind: [request for request in soak.requests if request.kind == kind] for kind in kinds}
    verdicts = {kind: dict(Counter(request.verdict for request in found)) for kind, found in of_kind.items()}
    spreads = {kind: _spread(found) for kind, found in of_kind.items()}
    total = Counter(request.verdict for request in soak.requests)
    memory = _tenths(soak)
    change = memory[-1] / memory[1] - 1
    return Figures(
        machine=soak.machine,
        seconds=soak.seconds,
        requests=len(soak.requests),
        per_second=len(soak.requests) / soak.seconds,
        reloads=len(soak.reloads),
        verdicts=verdicts,
        latency_ms={kind: spread.model_dump() for kind, spread in spreads.items() if spread is not None},
        lost=total["lost"],
        wrong=total["wrong"],
        queue_tokens=soak.queue_tokens,
        memory_mb=[round(value, 1) for value in memory],
        memory_change=change,
        flat=abs(change) <= FLAT,
    )


def draw(soak: Soak, found: Figures, file: Path) -> None:
    """Memory, latency of single sentences and verdicts over time, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    picture, (top, middle, bottom) = pyplot.subplots(3, 1, figsize=(9, 8), sharex=True, layout="constrained")
    picture.suptitle(
        f"{found.seconds / 60:.0f} minutes of mixed load with faults: {found.requests:,} requests, {found.lost} lost, "
        f"{found.wrong} wrong\n{found.machine}",
        fontsize=9,
    )
    top.plot([sample.at / 60 for sample in soak.memory], [sample.bytes / 1e6 for sample in soak.memory])
    top.set(ylabel="resident memory, MB", ylim=(0, None))
    minutes, bins = _bins(soak)
    for name in ("p50", "p95", "p99"):
        spreads = [_spread([request for request in found if request.kind == "one"]) for found in bins]
        values = [float("nan") if spread is None else getattr(spread, name) for spread in spreads]
        middle.plot(minutes, values, label=name)
    middle.set(ylabel="one sentence, ms", yscale="log")
    middle.legend(ncols=3)
    width = minutes[0] * 2 * 60  # seconds of a bin
    for verdict in sorted({request.verdict for request in soak.requests}):
        counts = [sum(request.verdict == verdict for request in found) / width for found in bins]
        bottom.plot(minutes, counts, label=verdict)
    bottom.set(ylabel="requests a second", xlabel="minutes", ylim=(0, None))
    bottom.legend(ncols=4)
    for axes in (top, middle, bottom):
        for at in soak.reloads:
            axes.axvline(at / 60, color="grey", linewidth=0.5, linestyle=":")
        axes.grid(alpha=0.3)
    picture.savefig(file, dpi=110)


def _spread(requests: Sequence[Request]) -> Percentiles | None:
    return percentiles([request.seconds for request in requests if request.verdict == "answered"])


def _tenths(soak: Soak) -> list[float]:
    """Median memory, MB, of each tenth of the time."""
    parts: list[list[float]] = [[] for _ in range(PARTS)]
    for sample in soak.memory:
        parts[min(PARTS - 1, int(sample.at / soak.seconds * PARTS))].append(sample.bytes / 1e6)
    return [statistics.median(part) for part in parts if part]


def _bins(soak: Soak) -> tuple[list[float], list[list[Request]]]:
    """Middles of equal parts of the time, in minutes, and the requests that were due in each."""
    bins: list[list[Request]] = [[] for _ in range(BINS)]
    for request in soak.requests:
        bins[min(BINS - 1, int(request.due / soak.seconds * BINS))].append(request)
    return [(number + 0.5) * soak.seconds / BINS / 60 for number in range(BINS)], bins
