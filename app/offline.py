"""Translating texts that are all at hand, lines or a document, without the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from app.engine import SegmentResult
from app.passage import Passage
from app.translator import Translation, TranslationOptions, search_options
from model.checkpoint import Checkpoint
from model.precision import Precision, prepare
from model.search import translate
from tokenizer.capitals import readable
from tokenizer.segment import Document
from tokenizer.subword import load_tokenizers

SEGMENTS = 256  # of a document that are translated together
MAX_CHARACTERS, MAX_PIECES = 500, 128  # of a segment; longer ones are cut


class OfflineTranslator:
    """Translates many texts with one checkpoint.

    Raises TokenizerError for a checkpoint without tokenizers, PrecisionError for a precision that cannot be had.
    """

    def __init__(
        self, checkpoint: Checkpoint, options: TranslationOptions, precision: Literal["auto"] | Precision = "float32"
    ) -> None:
        self._checkpoint, self._options = checkpoint, options
        self._model = prepare(checkpoint.model, precision).model
        self._search = search_options(options, checkpoint.config)
        self._tokenizers = load_tokenizers(checkpoint.folder)

    def lines(self, lines: Sequence[str]) -> list[Translation]:
        """A translation for each line; a line is one segment unless it is longer than the model can take."""
        passages = [self._line(line) for line in lines]
        results = iter(self._translate([pieces for passage in passages for pieces in passage.pieces]))
        return [self._write(passage, [next(results) for _ in passage.pieces]) for passage in passages]

    def document(self, text: str, advance: Callable[[int, int], None]) -> Translation:
        """The translation of a text, split into sentences; ``advance`` hears how many of how many are done."""
        passage = self._read(text)
        results: list[SegmentResult] = []
        for start in range(0, len(passage.pieces), SEGMENTS):
            results += self._translate(passage.pieces[start : start + SEGMENTS])
            advance(len(results), len(passage.pieces))
        return self._write(passage, results)

    def _line(self, line: str) -> Passage:
        pieces = self._tokenizers.source.encode(readable(line))
        if not pieces:
            return Passage(Document([], [line]), [])
        if len(line) > MAX_CHARACTERS or len(pieces) > MAX_PIECES:
            return self._read(line)
        return Passage(Document([line], ["", ""]), [pieces])

    def _read(self, text: str) -> Passage:
        config = self._checkpoint.config
        return Passage.read(text, config.source, self._tokenizers.source, MAX_CHARACTERS, MAX_PIECES)

    def _translate(self, sources: Sequence[Sequence[int]]) -> list[SegmentResult]:
        found = translate(self._model, sources, self._search, self._checkpoint.config.length_limit)
        return [SegmentResult(hypotheses, []) for hypotheses in found]

    def _write(self, passage: Passage, results: Sequence[SegmentResult]) -> Translation:
        return passage.translation(
            results, self._tokenizers.source, self._tokenizers.target, scores=True, alignment=False
        )
