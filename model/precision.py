"""Precision of inference: a trained model with its matrix products swapped for packed ones.

``prepare`` makes a model that is used through ``encode``, ``start``, ``step`` and ``attend`` as before; what it was
made from stays as it is. Precision is that of the products with weights. Everything between them, and the state that
passes from step to step, is float32.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple, get_args

import torch

from model.int8 import one_thread
from model.packing import ROWS, PackedSeq2Seq, Precision
from model.products import has_bfloat16
from model.seq2seq import Seq2Seq

__all__ = ["Precision", "PrecisionError", "Prepared", "prepare", "step_seconds", "supported"]

POSITIONS = 12  # of their sources
REPEATS = 3


class PrecisionError(ValueError):
    """A precision that cannot be had; the message says which ones can."""


class Prepared(NamedTuple):
    """A model ready for inference."""

    model: Seq2Seq
    precision: Precision
    measured: dict[str, float]  # seconds of a decoder step, geometric mean over ROWS; empty unless chosen by "auto"


def supported(device: torch.device | str = "cpu") -> tuple[Precision, ...]:
    """The precisions that ``device`` is fast in: all that "auto" tries.

    On a CPU bfloat16 can be prepared even where this leaves it out; it is slow there.
    """
    device = torch.device(device)
    bfloat16: tuple[Precision, ...] = ("bfloat16",) if has_bfloat16(device) else ()
    int8: tuple[Precision, ...] = ("int8",) if device.type == "cpu" else ()
    return ("float32", *bfloat16, *int8)


def prepare(model: Seq2Seq, precision: Precision | Literal["auto"]) -> Prepared:
    """``model`` for inference in ``precision``; "auto" measures those supported and takes the fastest.

    What comes back neither learns nor is saved. Raises PrecisionError for an unknown precision, for int8 elsewhere
    than on a CPU, and for a model that has been prepared before.
    """
    if isinstance(model, PackedSeq2Seq):
        raise PrecisionError("the model has been prepared before; prepare the one that was loaded")
    if precision != "auto":
        _check(precision, model.device)
        return Prepared(PackedSeq2Seq(model, precision), precision, {})
    measured: dict[str, float] = {}
    best: Prepared | None = None
    for candidate in supported(model.device):
        packed = PackedSeq2Seq(model, candidate)
        measured[candidate] = step_seconds(packed)
        if best is None or measured[candidate] < measured[best.precision]:
            best = Prepared(packed, candidate, measured)
    assert best is not None, "float32 is supported everywhere"
    return best


def step_seconds(model: Seq2Seq, rows: Sequence[int] = ROWS, repeats: int = REPEATS) -> float:
    """Seconds of a decoder step of ``model``, the geometric mean over ``rows``; of ``repeats`` the fastest counts.

    On a CPU they are processor time of one thread, which tells precisions apart on a busy machine as well: several
    threads would wait for each other.
    """
    device = model.device
    logarithms = []
    with torch.inference_mode(), one_thread():
        for count in rows:
            length = torch.full((count,), POSITIONS, device=device)
            memory = model.encode(torch.full((count, POSITIONS), model.config.unk, device=device), length)
            state, token = model.start(memory), torch.full((count,), model.config.bos, device=device)
            seconds = [_timed(partial(model.step, state, token, memory), device) for _ in range(repeats + 1)]
            logarithms.append(math.log(min(seconds[1:])))
    return math.exp(sum(logarithms) / len(logarithms))


def _timed(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cpu":
        began = time.thread_time()
        work()
        return time.thread_time() - began
    torch.cuda.synchronize(device)
    began = time.perf_counter()
    work()
    torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _check(precision: str, device: torch.device) -> None:
    known = get_args(Precision)
    if precision not in known:
        raise PrecisionError(f"precision is {precision!r}; it must be auto, {', '.join(known)}")
    if precision == "int8" and device.type != "cpu":
        raise PrecisionError(f"int8 needs a CPU, the model is on {device}; use {' or '.join(supported(device))}")
