"""A text on its way through translation: cut into segments that the model can take, and put together again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from app.engine.jobs import SegmentResult
from app.translation import Alternative, Segment, SegmentStatus, Span, Translation, Unfinished
from model.search import Hypothesis
from tokenizer.capitals import in_capitals, like, readable
from tokenizer.segment import Document, split
from tokenizer.subword import Piece, Subword


class Passage(NamedTuple):
    """A text as segments of pieces. ``document.segments`` and ``pieces`` have the same length.

    The pieces of a segment in capitals are those of its small letters, and its translation is in capitals.
    """

    document: Document
    pieces: list[list[int]]

    @classmethod
    def read(cls, text: str, language: str, subword: Subword, max_characters: int, max_pieces: int) -> Passage:
        """Cut a text; a segment of more than ``max_pieces`` pieces is cut again rather than lost.

        Raises InvalidTextError for a lone surrogate.
        """
        document = split(text, language, max_characters=max_characters)
        segments: list[str] = []
        separators = document.separators[:1]
        pieces: list[list[int]] = []
        for segment, separator in zip(document.segments, document.separators[1:], strict=True):
            inner = _fit(segment, language, subword, max_pieces)
            segments += inner.document.segments
            separators[-1] += inner.document.separators[0]
            separators += [*inner.document.separators[1:-1], inner.document.separators[-1] + separator]
            pieces += inner.pieces
        return cls(Document(segments, separators), pieces)

    def spans(self) -> list[Span]:
        """Where each segment stands in the text."""
        pairs = zip(self.document.separators, self.document.segments, strict=False)
        ends = list(accumulate(len(separator) + len(segment) for separator, segment in pairs))
        return [Span(end - len(segment), end) for end, segment in zip(ends, self.document.segments, strict=True)]

    def translation(
        self, results: Sequence[SegmentResult], source: Subword, target: Subword, *, scores: bool, alignment: bool
    ) -> Translation:
        """The text's translation from the results of its segments, in their order."""
        depth = max((len(result.hypotheses) for result in results), default=0)
        ranks = range(max(1, depth))
        best, *others = [self._rank([_at(result, rank) for result in results], target, scores) for rank in ranks]
        if alignment:
            best, *others = [
                other._replace(alignment=self._align([_at(result, rank) for result in results], source, target))
                for rank, other in enumerate([best, *others])
            ]
        return Translation(best.text, best.score, others, best.alignment, self._unfinished(results))

    def _unfinished(self, results: Sequence[SegmentResult]) -> list[Unfinished]:
        segments = zip(self.spans(), map(status_of, results), strict=True)
        return [
            Unfinished(number, span, status) for number, (span, status) in enumerate(segments) if status != "complete"
        ]

    def _rank(self, results: Sequence[SegmentResult], target: Subword, scores: bool) -> Alternative:
        """The text of every segment's first hypothesis, not yet aligned."""
        chosen = [result.hypotheses[0] for result in results if result.hypotheses]
        rows = zip(self.document.segments, results, strict=True)
        texts = [translated(segment, result, target) or "" for segment, result in rows]
        text = self.document.rebuild(texts)
        return Alternative(text, _mean_score(chosen) if scores and chosen else None, None)

    def _align(self, results: Sequence[SegmentResult], source: Subword, target: Subword) -> list[Segment]:
        """The alignment of every segment's first hypothesis."""
        segments: list[Segment] = []
        source_start = target_start = len(self.document.separators[0])
        rows = zip(self.document.segments, self.document.separators[1:], results, strict=True)
        for text, separator, result in rows:
            pieces = result.hypotheses[0].pieces if result.hypotheses else []
            written, target_pieces = target.decode_pieces(pieces)
            if in_capitals(text):
                written, target_pieces = _in_capitals(written, target_pieces)
            attention = [row[:-1] for row in result.annotations[0].attention[:-1]] if pieces else []
            source_pieces = list(_shift(source.encode_pieces(readable(text)), source_start))
            segments.append(Segment(source_pieces, list(_shift(target_pieces, target_start)), attention))
            source_start += len(text) + len(separator)
            target_start += len(written) + len(separator)
        return segments


def _fit(segment: str, language: str, subword: Subword, max_pieces: int) -> Passage:
    """One segment as one or several of at most ``max_pieces`` pieces; a single character is never cut."""
    pieces = subword.encode(readable(segment))
    if len(pieces) <= max_pieces or len(segment) == 1:
        return Passage(Document([segment], ["", ""]), [pieces])
    return Passage.read(segment, language, subword, max(1, len(segment) // 2), max_pieces)


def translated(segment: str, result: SegmentResult, target: Subword) -> str | None:
    """The text of the first hypothesis of what was found for ``segment``, written as that is; None if nothing was."""
    return like(segment, target.decode(result.hypotheses[0].pieces)) if result.hypotheses else None


def _in_capitals(text: str, pieces: Sequence[Piece]) -> tuple[str, list[Piece]]:
    """``text`` in capitals, with the spans of ``pieces`` there; some letters become two."""
    places = [0, *accumulate(len(character.upper()) for character in text)]
    return text.upper(), [piece._replace(start=places[piece.start], end=places[piece.end]) for piece in pieces]


def _at(result: SegmentResult, rank: int) -> SegmentResult:
    """The result from its hypothesis of this rank on; one that has fewer stays at its last."""
    first = min(rank, max(0, len(result.hypotheses) - 1))
    return result._replace(hypotheses=result.hypotheses[first:], annotations=result.annotations[first:])


def status_of(result: SegmentResult) -> SegmentStatus:
    """Whether a segment was translated, and to its end."""
    if result.complete:
        return "complete"
    return "partial" if result.hypotheses else "missing"


def _mean_score(hypotheses: Sequence[Hypothesis]) -> float:
    weights = [len(hypothesis.pieces) + 1 for hypothesis in hypotheses]
    pairs = zip(hypotheses, weights, strict=True)
    return sum(hypothesis.score * weight for hypothesis, weight in pairs) / sum(weights)


def _shift(pieces: Sequence[Piece], by: int) -> Iterator[Piece]:
    return (piece._replace(start=piece.start + by, end=piece.end + by) for piece in pieces)
