"""What the engine tells about its work, for metrics."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class StepReport(NamedTuple):
    """One decoding step of one model's batch."""

    model: str
    seconds: float  # admission of new sentences included
    sentences: int
    rows: int  # of the decoder: sentences times the widest beam
    tokens: int  # source positions, end-of-sentence included
    padded_tokens: int  # the same with padding

    @property
    def padding_share(self) -> float:
        """Share of the source positions that is padding, from 0 to 1."""
        return 1 - self.tokens / self.padded_tokens if self.padded_tokens else 0.0


class EngineObserver(Protocol):
    """Hears of the engine's work, on whichever thread does it. Implementations are quick and do not raise."""

    def queue_changed(self, tokens: int) -> None:
        """``tokens`` source tokens wait or are under way, those that the queue's limit bounds. Told between steps."""

    def stepped(self, report: StepReport) -> None:
        """A batch went one step forward."""

    def segment_done(self, model: str, source_tokens: int, target_tokens: int) -> None:
        """A segment was translated; tokens count end-of-sentence, the target's are those of the best hypothesis."""

    def segment_failed(self, model: str) -> None:
        """The model failed on a segment, even alone."""

    def segments_cut(self, model: str, segments: int) -> None:
        """The deadline of segments passed that took what there was; told of those not begun as well."""

    def cache_looked_up(self, model: str, hits: int, misses: int) -> None:
        """Segments of a request were or were not found among the translations of late."""

    def segment_shared(self, model: str) -> None:
        """A segment that was not in the cache was under way already, and is translated once for both."""


class SilentObserver:
    """Tells nobody."""

    def queue_changed(self, tokens: int) -> None: ...

    def stepped(self, report: StepReport) -> None: ...

    def segment_done(self, model: str, source_tokens: int, target_tokens: int) -> None: ...

    def segment_failed(self, model: str) -> None: ...

    def segments_cut(self, model: str, segments: int) -> None: ...

    def cache_looked_up(self, model: str, hits: int, misses: int) -> None: ...

    def segment_shared(self, model: str) -> None: ...
