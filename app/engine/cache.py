"""Translations of late, for sentences that come again."""

from __future__ import annotations

import threading
from collections import OrderedDict

from app.engine.flights import Key
from app.engine.jobs import SegmentResult

ENTRY_TOKENS = 32  # what an entry weighs besides its pieces and figures, in their unit


class ResultCache:
    """Complete results, those not used for longest given up first. Safe to use from any thread.

    ``capacity`` is in tokens: the pieces of source and hypotheses, each figure of an annotation, and
    ``ENTRY_TOKENS`` an entry. A token takes about 35 bytes.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.tokens = 0
        self._lock = threading.Lock()
        self._results: OrderedDict[Key, SegmentResult] = OrderedDict()

    def get(self, key: Key) -> SegmentResult | None:
        with self._lock:
            result = self._results.get(key)
            if result is not None:
                self._results.move_to_end(key)
            return result

    def put(self, key: Key, result: SegmentResult) -> None:
        """Keep a result, unless it is larger than the cache."""
        size = _size(key, result)
        if size > self.capacity:
            return
        with self._lock:
            self._discard(key)
            self._results[key] = result
            self.tokens += size
            while self.tokens > self.capacity:
                self._discard(next(iter(self._results)))

    def forget(self, generation: int) -> None:
        """Give up the results of a model that is gone."""
        with self._lock:
            for key in [key for key in self._results if key.generation == generation]:
                self._discard(key)

    def _discard(self, key: Key) -> None:
        result = self._results.pop(key, None)
        if result is not None:
            self.tokens -= _size(key, result)


def _size(key: Key, result: SegmentResult) -> int:
    pieces = len(key.job.pieces) + sum(len(hypothesis.pieces) for hypothesis in result.hypotheses)
    figures = sum((len(key.job.pieces) + 2) * len(note.log_probabilities) for note in result.annotations)
    return ENTRY_TOKENS + pieces + figures
