"""Batches made ready ahead of the step that learns from them, in a thread of their own."""

from __future__ import annotations

import queue
import threading
from typing import NamedTuple, Self

import torch
from torch import Tensor

from training.batching import Batch, BatchStream, Position
from training.objective import real_positions

AHEAD = 4  # steps: enough to hide the slowest batch, few enough to hold in memory


class Inputs(NamedTuple):
    """A batch as :class:`training.training_loss.TrainingLoss` takes it."""

    source: Tensor  # (B, S) int64
    source_lengths: Tensor  # (B,) int64
    target_input: Tensor  # (B, T) int64
    target_output: Tensor  # (B, T) int64
    real: Tensor  # (N,) int64, the places in the flattened target_output that are no padding

    def to(self, device: str) -> Inputs:
        """The same on ``device``; from pinned memory without waiting."""
        return Inputs(*(part.to(device, non_blocking=True) for part in self))


class Load(NamedTuple):
    """What this process learns from in one step."""

    inputs: tuple[Inputs, ...]
    target_tokens: int  # real target positions of the step, in all processes together
    position: Position  # of the data when the step has been taken


class Loader:
    """The steps of a stream, collated ahead in a background thread.

    ``position`` of a load belongs to the step that it is for: what the thread has read beyond it does not count.
    An error of the thread is raised by the ``next`` that it befell.
    """

    def __init__(
        self, stream: BatchStream, accumulate: int, *, rank: int = 0, size: int = 1, pad: int, pinned: bool
    ) -> None:
        """``pinned``: in page-locked memory, from which a GPU copies while it computes."""
        self._stream, self._accumulate, self._rank, self._size = stream, accumulate, rank, size
        self._pad, self._pinned = pad, pinned
        self._ready: queue.Queue[Load | BaseException] = queue.Queue(AHEAD)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="loader", daemon=True)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Load:
        if self._thread.ident is None:
            self._thread.start()
        load = self._ready.get()
        if isinstance(load, BaseException):
            raise load
        return load

    def close(self) -> None:
        """End the thread; the stream may be used by others again."""
        self._closed.set()
        if self._thread.is_alive():
            # A thread that waits for room finds it, and then that it is to end.
            while not self._ready.empty():
                self._ready.get_nowait()
            self._thread.join()

    def _work(self) -> None:
        try:
            while not self._closed.is_set():
                self._ready.put(self._load())
        except BaseException as error:
            self._ready.put(error)

    def _load(self) -> Load:
        share = self._stream.share(self._accumulate, self._rank, self._size)
        inputs = tuple(prepare_inputs(batch, self._pad, self._pinned) for batch in share.batches)
        return Load(inputs, share.target_tokens, share.position)


def prepare_inputs(batch: Batch, pad: int, pinned: bool = False) -> Inputs:
    """The inputs of the loss, on the CPU."""
    inputs = Inputs(*batch, real_positions(batch.target_output, pad))
    return Inputs(*map(torch.Tensor.pin_memory, inputs)) if pinned else inputs
