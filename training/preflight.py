"""Before the first step: does the largest batch fit into memory?

That batch has ``batch_tokens`` divided by the longest encoding in the corpus as its number of pairs, and both sides of
all of them are that long. No batch of any epoch has more positions on a side, nor more pairs of positions for the
attention. It is run forward and backward once; gradients are thrown away and random generators put back, so that a run
is the same with and without.

On a CPU too much memory is not an error that can be caught: the system kills the process. So a quarter of the batch is
measured there first, and the whole only run if the quarter, extrapolated, fits. A GPU says when it is full.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from training.corpus import Corpus
from training.loader import Inputs
from training.memory import available_memory, peak_memory, reset_peak_memory, resident_memory
from training.planning import padded
from training.state import generators, restore_generators
from training.training_loss import TrainingLoss

_ROWS_AT_ONCE = 1 << 20  # of the corpus's table of lengths
_MARGIN = 0.9  # of the memory that is free; an extrapolation is not exact


class MemoryBudgetError(Exception):
    """The recipe's batches do not fit into memory; the message names a batch_tokens that does."""


class Shape(NamedTuple):
    """Batches as large as the data and ``batch_tokens`` allow."""

    batch_tokens: int
    longest: int  # positions of the longest side of a pair

    @property
    def pairs(self) -> int:
        """The pairs of the largest batch; a pair longer than ``batch_tokens`` is a batch of its own."""
        return max(1, self.batch_tokens // self.longest)


class Peak(NamedTuple):
    """What a run will need beside what it holds already, and what there is, in bytes."""

    pairs: int
    longest: int
    needed: int
    available: int | None

    def __str__(self) -> str:
        free = "" if self.available is None else f" of {_gib(self.available)} free"
        return f"largest batch ({self.pairs} x {self.longest} pieces on each side): {_gib(self.needed)}{free}"


class Memory(NamedTuple):
    """How a device answers."""

    measure: Callable[[int], int | None]  # peak bytes of a batch of so many pairs; None: it did not fit
    available: int | None  # bytes, if known
    fixed: int  # bytes that a step takes whatever the batch: gradients, the optimizer's moments
    careful: bool  # whether nothing may be tried that might not fit


def largest_pair(corpus: Corpus) -> int:
    """Positions of the longest source or target in any encoding, end of sentence and padding counted."""
    longest = 0
    for shard in (corpus.source, corpus.target):
        for start in range(0, len(shard), _ROWS_AT_ONCE):
            longest = max(longest, int(shard.lengths(slice(start, start + _ROWS_AT_ONCE)).max()))
    return padded(longest + 1)


def preflight(loss: TrainingLoss, shape: Shape, moments: int, ranks: int) -> Peak:
    """Run the largest batch; ``moments`` bytes the optimizer will still take, ``ranks`` processes share the machine.

    Raises MemoryBudgetError where it does not fit. Gradients are None afterwards.
    """
    gradients = sum(parameter.numel() * parameter.element_size() for parameter in loss.parameters())
    kept = generators()
    trial = _Trial(loss, shape.longest)
    try:
        if loss.device.is_gpu:
            free, _ = torch.cuda.mem_get_info()
            spare = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
            memory = Memory(trial.measure_gpu, free + spare, gradients + moments, careful=False)
        else:
            trial.run(1)  # what the libraries take once and for all
            trial.base = resident_memory()
            available = available_memory()
            available = None if available is None else available // ranks
            memory = Memory(trial.measure_cpu, available, gradients + moments, careful=True)
        return fit_into(memory, shape, moments)
    finally:
        restore_generators(kept)


def fit_into(memory: Memory, shape: Shape, moments: int) -> Peak:
    """The peak of the largest batch of ``shape``. Raises MemoryBudgetError with the largest budget that would fit."""
    free = memory.available
    if memory.careful and free is not None and shape.pairs > 1:
        tried = max(1, shape.pairs // 4)
        measured = memory.measure(tried)
        if measured is not None:
            each = max(1, measured + moments - memory.fixed) / tried
            if memory.fixed + each * shape.pairs > free:
                fitting = int((_MARGIN * free - memory.fixed) / each)
                expected = round(memory.fixed + each * shape.pairs)
                raise _too_large(shape, expected, free, fitting, f"extrapolated from a batch of {tried} pairs")
    needed = _needed(memory, shape.pairs, moments)
    if needed is None or (free is not None and needed > free):
        fitting = _bisect(memory, shape.pairs, moments)
        raise _too_large(shape, needed, free, fitting, "found by bisection")
    return Peak(shape.pairs, shape.longest, needed, free)


def _needed(memory: Memory, pairs: int, moments: int) -> int | None:
    measured = memory.measure(pairs)
    return None if measured is None else measured + moments


def _bisect(memory: Memory, pairs: int, moments: int) -> int:
    """The most pairs below ``pairs`` that fit, to a sixteenth; 0 if not even one does."""
    fits, fails = 0, pairs
    while fails - fits > max(1, fits // 16):
        middle = (fits + fails) // 2
        needed = _needed(memory, middle, moments)
        if needed is not None and (memory.available is None or needed <= memory.available):
            fits = middle
        else:
            fails = middle
    return fits


def _too_large(shape: Shape, needed: int | None, free: int | None, fitting: int, found: str) -> MemoryBudgetError:
    takes = "more memory than there is" if needed is None else f"{_gib(needed)} of memory"
    there = "" if free is None else f", and {_gib(free)} are free"
    if fitting < 1:
        way = "not even one such pair fits: take a smaller model, or a lower data.cleaning.max_pieces"
    else:
        way = (
            f"the largest training.batch_tokens that fits is {fitting * shape.longest} ({found}); a higher "
            "training.accumulate keeps the size of a step"
        )
    return MemoryBudgetError(
        f"training.batch_tokens: {shape.batch_tokens} allows a batch of {shape.pairs} pairs of {shape.longest} pieces "
        f"on each side, which takes {takes}{there}; {way}"
    )


class _Trial:
    """Batches that stand for real ones."""

    def __init__(self, loss: TrainingLoss, longest: int) -> None:
        self.loss, self.longest, self.base = loss, longest, 0

    def run(self, pairs: int) -> None:
        """Forward and backward pass over ``pairs`` pairs of the greatest length, without a trace."""
        loss, device = self.loss, self.loss.device.name
        pieces = torch.full((pairs, self.longest), loss.model.config.unk)
        lengths = torch.full((pairs,), self.longest)
        inputs = Inputs(pieces, lengths, pieces, pieces, torch.arange(pieces.numel())).to(device)
        try:
            loss.train()
            smoothed, _ = loss(*inputs)
            smoothed.backward()
        finally:
            loss.zero_grad(set_to_none=True)

    def measure_cpu(self, pairs: int) -> int | None:
        """Growth of the resident memory at the height of the pass."""
        reset_peak_memory()
        try:
            self.run(pairs)
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
                raise
            return None
        return max(0, peak_memory() - self.base)

    def measure_gpu(self, pairs: int) -> int | None:
        """Growth of the memory in use on the GPU at the height of the pass."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        try:
            self.run(pairs)
        except torch.OutOfMemoryError:
            return None
        return torch.cuda.max_memory_allocated() - before


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
