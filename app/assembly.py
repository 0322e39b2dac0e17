"""The texts of a request while the results of their segments come in, in whatever order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from app.engine.jobs import SegmentResult
from app.passage import Passage, status_of, translated
from app.translation import SegmentTranslation, Translation, TranslationOptions
from tokenizer.subword import TokenizerPair


class Assembly:
    """Texts that are being translated. Their segments are counted through, those of the first text first."""

    def __init__(self, passages: Sequence[Passage], tokenizers: TokenizerPair, options: TranslationOptions) -> None:
        self._passages, self._tokenizers, self._options = passages, tokenizers, options
        self._places = [(text, place) for text, passage in enumerate(passages) for place in range(len(passage.pieces))]
        self._spans = [passage.spans() for passage in passages]
        self._results: dict[int, SegmentResult] = {}

    @property
    def pieces(self) -> Iterator[list[int]]:
        """The source ids of every segment."""
        return (pieces for passage in self._passages for pieces in passage.pieces)

    def text_of(self, segment: int) -> int:
        """The number of the text to which a segment belongs."""
        return self._places[segment][0]

    def add(self, segment: int, result: SegmentResult) -> None:
        """Take the result of one segment."""
        self._results[segment] = result

    def segment(self, segment: int) -> SegmentTranslation:
        """The result of one segment that is there, with its place in its text."""
        result = self._results[segment]
        text, place = self._places[segment]
        segments, separators = self._passages[text].document
        best = result.hypotheses[0] if result.hypotheses else None
        return SegmentTranslation(
            text=text,
            segment=place,
            segments=len(self._spans[text]),
            span=self._spans[text][place],
            before=separators[0] if place == 0 else "",
            translation=translated(segments[place], result, self._tokenizers.target),
            after=separators[place + 1],
            score=best.score if best and self._options.scores else None,
            status=status_of(result),
        )

    def translations(self) -> list[Translation]:
        """The translation of every text, once the results of all segments are there."""
        results = (self._results[segment] for segment in range(len(self._places)))
        return [
            passage.translation(
                [next(results) for _ in passage.pieces],
                self._tokenizers.source,
                self._tokenizers.target,
                scores=self._options.scores,
                alignment=self._options.alignment,
            )
            for passage in self._passages
        ]
