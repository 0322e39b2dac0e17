"""What every measurement prints of the machine, on one line, and how it times: as ``ferry bench`` does."""

from __future__ import annotations

from app.bench.machine import Timing, matrix_rate, measure, read, timed

__all__ = ["Timing", "describe", "load", "matrix_rate", "measure", "timed"]


def describe() -> str:
    """Processor, its vector units, cores, threads and torch."""
    return read().hardware


def load() -> str:
    """Load average: figures of a busy machine say little."""
    return f"load {read().load:.1f}"
