"""What every measurement says of the machine, and how it times."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from model.config import Frozen

PROCESSOR = Path("/proc/cpuinfo")
UNITS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile")
PRODUCTS_SECONDS = 0.02  # a timing shorter than this says more of the clock than of the product


class Machine(Frozen):
    """Where a measurement was taken."""

    processor: str
    vector_units: tuple[str, ...]
    cores: int
    threads: int
    torch: str
    load: float  # average of the last minute before the measurement: figures of a busy machine say little

    @property
    def hardware(self) -> str:
        """All but the load, on one line."""
        units = " ".join(self.vector_units)
        return f"{self.processor}, {units}, {self.cores} cores, {self.threads} threads, torch {self.torch}"

    def __str__(self) -> str:
        return f"{self.hardware}, load {self.load:.1f}"


class Timing(NamedTuple):
    """Seconds of repeated runs."""

    median: float
    fastest: float
    slowest: float

    def __str__(self) -> str:
        return f"median {self.median * 1e3:.1f} ms ({self.fastest * 1e3:.1f} to {self.slowest * 1e3:.1f})"


def read() -> Machine:
    """This machine, with the threads that torch has been given."""
    text = PROCESSOR.read_text() if PROCESSOR.exists() else ""
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    names = {key.strip(): value.strip() for key, value in fields.items()}
    return Machine(
        processor=f"{names.get('model name', 'unknown processor')} (family {names.get('cpu family', '?')})",
        vector_units=tuple(unit for unit in UNITS if unit in names.get("flags", "").split()),
        cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        torch=str(torch.__version__),
        load=os.getloadavg()[0],
    )


def measure(work: Callable[[], object], repeats: int) -> Timing:
    """Time ``work`` after one run to warm up."""
    work()
    seconds = [timed(work) for _ in range(repeats)]
    return Timing(statistics.median(seconds), min(seconds), max(seconds))


def timed(work: Callable[[], object]) -> float:
    """Seconds of one run."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def matrix_rate(rows: int, inputs: int, outputs: int, dtype: torch.dtype = torch.float32) -> float:
    """Measured operations a second of a product of (rows, inputs) by (inputs, outputs), both of ``dtype``."""
    right = torch.randn(outputs, inputs).to(dtype).t()
    return product_rate(lambda left: left @ right, rows, inputs, outputs, dtype)


@torch.inference_mode()
def product_rate(
    product: Callable[[Tensor], Tensor], rows: int, inputs: int, outputs: int, dtype: torch.dtype = torch.float32
) -> float:
    """Measured operations a second of ``product``, which takes (rows, inputs) of ``dtype`` to (rows, outputs)."""
    left = torch.randn(rows, inputs).to(dtype)
    calls = max(1, round(PRODUCTS_SECONDS / max(timed(lambda: product(left)), 1e-9)))
    timing = measure(lambda: [product(left) for _ in range(calls)], 11)
    return 2 * rows * inputs * outputs * calls / timing.median
