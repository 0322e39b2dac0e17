"""What is asked of the engine and what it answers."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from model.search import Annotation, Hypothesis, SearchOptions


class Priority(IntEnum):
    """Whose turn comes first; what waits long enough is overtaken by neither."""

    INTERACTIVE = 0
    BULK = 1


class SegmentJob(NamedTuple):
    """One segment to translate."""

    pieces: tuple[int, ...]  # source ids without begin- or end-of-sentence, at least one
    options: SearchOptions
    annotate: bool = False

    @property
    def tokens(self) -> int:
        """Source positions that the model sees, end-of-sentence included."""
        return len(self.pieces) + 1


class SegmentResult(NamedTuple):
    """The translations of one segment, best first.

    ``complete`` is false where the deadline cut the search short: the hypotheses are then the best there were, and
    there are none of a segment that had not been begun.
    """

    hypotheses: list[Hypothesis]
    annotations: list[Annotation]  # one for each hypothesis if the job asked for them, else none
    complete: bool = True


NOT_BEGUN = SegmentResult([], [], complete=False)


class Outcome(NamedTuple):
    """The answer to a request: a result for each of its jobs, in their order."""

    results: list[SegmentResult]
    queue_seconds: float  # from arrival until its first segment entered a batch
    compute_seconds: float  # from then until its last segment was done
