"""The figures of a step on their way from the device to the host.

On a CPU they are there at once. On a GPU they are copied into pinned memory behind the step and read when the next
step has been queued, so that the host never waits for the step it has just begun.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class StepRecord(NamedTuple):
    """What the host knows of a step when it has queued it."""

    step: int
    target_tokens: int
    rate: float  # learning rate
    began: float  # time.perf_counter()


class StepFigures(NamedTuple):
    """What the device found."""

    loss: float  # nats a target piece
    norm: float  # of the gradient before clipping
    finite: bool  # whether the step was taken
    stop: bool  # whether any rank was asked to stop


class Readout:
    """Steps whose figures have not been read yet, first to last."""

    def __init__(self, late: int) -> None:
        """``late``: how many steps may stay unread while the next one is queued."""
        self._late = late
        self._waiting: deque[tuple[StepRecord, Tensor, torch.cuda.Event | None]] = deque()

    def add(self, record: StepRecord, figures: Tensor) -> None:
        """``figures`` (4,) float32 on the device, in the order of :class:`StepFigures`."""
        if figures.device.type == "cpu":
            self._waiting.append((record, figures, None))
            return
        host = torch.empty(figures.shape, pin_memory=True)
        host.copy_(figures, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self._waiting.append((record, host, event))

    def due(self, *, everything: bool = False) -> Iterator[tuple[StepRecord, StepFigures]]:
        """The steps to be read by now."""
        while len(self._waiting) > (0 if everything else self._late):
            record, host, event = self._waiting.popleft()
            if event is not None:
                event.synchronize()
            loss, norm, finite, stop = host.tolist()
            yield record, StepFigures(loss, norm, bool(finite), bool(stop))
