"""Texts to translations: cut, encoded, translated by the engine, decoded and put together again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import NamedTuple

from app.assembly import Assembly
from app.engine import Engine, SegmentFailedError, SegmentJob
from app.languages import DuplicatePairError, LanguagePairs
from app.passage import Passage
from app.translation import (
    Alternative,
    BadTextError,
    LanguagePair,
    Segment,
    SegmentTranslation,
    Span,
    TextFailedError,
    TextTooLargeError,
    TooManyTextsError,
    Translation,
    TranslationError,
    TranslationOptions,
    TranslationRequest,
    TranslationResponse,
    Unfinished,
    UnsupportedPairError,
)
from model.checkpoint import Checkpoint, CheckpointConfig
from model.config import LengthLimit, LengthPenalty
from model.search import SearchOptions
from model.seq2seq import Seq2Seq
from tokenizer.normalize import InvalidTextError
from tokenizer.subword import TokenizerPair, load_tokenizers

__all__ = [
    "Alternative",
    "BadTextError",
    "DuplicatePairError",
    "LanguagePair",
    "Segment",
    "SegmentTranslation",
    "Span",
    "TextFailedError",
    "TextTooLargeError",
    "TooManyTextsError",
    "Translation",
    "TranslationError",
    "TranslationOptions",
    "TranslationRequest",
    "TranslationResponse",
    "Translator",
    "Unfinished",
    "UnsupportedPairError",
    "engine_models",
    "search_options",
]

# Cutting and encoding more text than this would hold up the event loop; a thread does it.
INLINE_CHARACTERS = 2_000


class Translator:
    """Translates texts between the languages of its checkpoints, by way of an engine that has their models."""

    def __init__(
        self,
        checkpoints: Sequence[Checkpoint],
        engine: Engine,
        *,
        max_text_characters: int = 20_000,
        max_texts: int = 1_000,
        max_segment_characters: int = 500,
        max_segment_pieces: int = 128,
    ) -> None:
        """The first two limits refuse requests; the others say where long segments are cut.

        Raises TokenizerError for a checkpoint without usable tokenizers, DuplicatePairError if two have the same
        languages or name.
        """
        self._engine = engine
        self._max_text_characters, self._max_texts = max_text_characters, max_texts
        self._max_segment_characters, self._max_segment_pieces = max_segment_characters, max_segment_pieces
        configs = [checkpoint.config for checkpoint in checkpoints]
        self._languages = LanguagePairs([LanguagePair(item.source, item.target, item.name) for item in configs])
        self._lines = {item.config.name: _Line(item.config, load_tokenizers(item.folder)) for item in checkpoints}

    @property
    def pairs(self) -> tuple[LanguagePair, ...]:
        """What it can translate."""
        return self._languages.pairs

    async def translate(self, request: TranslationRequest) -> TranslationResponse:
        """Translate every text of a request, all of their segments together.

        A blank text is its own translation. Raises UnsupportedPairError, TooManyTextsError, TextTooLargeError,
        BadTextError, TextFailedError, and the errors of :meth:`app.engine.engine.Engine.translate`.
        """
        async with aclosing(self.stream(request)) as events:
            async for event in events:
                answer = event
        assert isinstance(answer, TranslationResponse)
        return answer

    async def stream(self, request: TranslationRequest) -> AsyncGenerator[SegmentTranslation | TranslationResponse]:
        """Every segment as soon as it is translated, in whatever order, and at last the whole response.

        Raises the errors of :meth:`translate`. Whoever does not read to the end closes the generator, which drops what
        is left to do.
        """
        deadline = None if request.deadline_seconds is None else time.monotonic() + request.deadline_seconds
        line = self._lines[self._languages.find(request.source, request.target).model]
        self._check(request.texts)
        long = sum(map(len, request.texts)) > INLINE_CHARACTERS
        assembly = await asyncio.to_thread(self._read, request, line) if long else self._read(request, line)
        options = search_options(request.options, line.config)
        jobs = [SegmentJob(tuple(pieces), options, request.options.alignment) for pieces in assembly.pieces]
        try:
            outcome = await self._engine.translate(line.config.name, jobs, deadline)
        except SegmentFailedError as error:
            raise TextFailedError(assembly.text_of(error.segment), error) from error
        for segment, result in enumerate(outcome.results):
            yield assembly.add(segment, result)
        translations = await asyncio.to_thread(assembly.translations) if long else assembly.translations()
        config = line.config
        timings = (outcome.queue_seconds, outcome.compute_seconds)
        yield TranslationResponse(translations, config.name, config.version, config.source, config.target, *timings)

    def _check(self, texts: Sequence[str]) -> None:
        if len(texts) > self._max_texts:
            raise TooManyTextsError(len(texts), self._max_texts)
        for number, text in enumerate(texts):
            if len(text) > self._max_text_characters:
                raise TextTooLargeError(number, len(text), self._max_text_characters)

    def _read(self, request: TranslationRequest, line: _Line) -> Assembly:
        limits = (self._max_segment_characters, self._max_segment_pieces)
        passages = []
        for number, text in enumerate(request.texts):
            try:
                passages.append(Passage.read(text, line.config.source, line.tokenizers.source, *limits))
            except InvalidTextError as error:
                raise BadTextError(number, str(error)) from error
        return Assembly(passages, line.tokenizers, request.options)


class _Line(NamedTuple):
    """What one checkpoint brings to a translation, its model apart."""

    config: CheckpointConfig
    tokenizers: TokenizerPair


def engine_models(checkpoints: Sequence[Checkpoint]) -> dict[str, tuple[Seq2Seq, LengthLimit]]:
    """The models of checkpoints, by the names by which a translator asks the engine for them."""
    return {item.config.name: (item.model, item.config.length_limit) for item in checkpoints}


def search_options(options: TranslationOptions, config: CheckpointConfig) -> SearchOptions:
    """What a segment asks of the search, where options leave it open as the checkpoint has it."""
    penalty = config.length_penalty
    if options.length_penalty is not None:
        kind = "power" if penalty.kind == "none" else penalty.kind
        penalty = LengthPenalty(kind=kind, alpha=options.length_penalty)
    return SearchOptions(options.beam_size or max(config.beam_size, options.n_best), options.n_best, penalty)
