"""What every measurement prints of the machine, and how it times."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_tile")


class Timing(NamedTuple):
    """Seconds of repeated runs."""

    median: float
    fastest: float
    slowest: float

    def __str__(self) -> str:
        return f"median {self.median * 1e3:.1f} ms ({self.fastest * 1e3:.1f} to {self.slowest * 1e3:.1f})"


def describe() -> str:
    """Processor, its vector units, cores, threads and torch, on one line."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    names = {key.strip(): value.strip() for key, value in fields.items()}
    units = [flag for flag in FLAGS if flag in names.get("flags", "").split()]
    model = f"{names.get('model name', 'unknown processor')} (family {names.get('cpu family', '?')})"
    threads = torch.get_num_threads()
    return f"{model}, {' '.join(units)}, {os.cpu_count()} cores, {threads} threads, torch {torch.__version__}, float32"


def measure(work: Callable[[], object], repeats: int) -> Timing:
    """Time ``work`` after one run to warm up."""
    work()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return Timing(statistics.median(seconds), min(seconds), max(seconds))


def matrix_rate(rows: int, inputs: int, outputs: int) -> float:
    """Measured operations a second of a float32 product of (rows, inputs) by (inputs, outputs)."""
    left, right = torch.randn(rows, inputs), torch.randn(outputs, inputs).t()
    timing = measure(lambda: left @ right, 21)
    return 2 * rows * inputs * outputs / timing.median


def load() -> str:
    """Load average: figures of a busy machine say little."""
    return f"load {os.getloadavg()[0]:.1f}"
