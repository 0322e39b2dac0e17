"""Texts to translations: cut, encoded, translated by the engine, decoded and put together again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from app.assembly import Assembly
from app.catalogue import Catalogue
from app.engine import Engine, SegmentFailedError, SegmentJob
from app.languages import DuplicatePairError
from app.passage import Passage
from app.served import Facts
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
from model.checkpoint import CheckpointConfig
from model.config import LengthPenalty
from model.search import SearchOptions
from tokenizer.normalize import InvalidTextError

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
    "search_options",
]

# Cutting and encoding more text than this would hold up the event loop; a thread does it.
INLINE_CHARACTERS = 2_000


class Translator:
    """Translates texts between the languages of its catalogue, by way of the engine that has the models.

    ``catalogue`` may be replaced at any time; a request goes on with the models that it found there.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        engine: Engine,
        *,
        max_text_characters: int = 20_000,
        max_texts: int = 1_000,
        max_segment_characters: int = 500,
        max_segment_pieces: int = 128,
    ) -> None:
        """The first two limits refuse requests; the others say where long segments are cut."""
        self.catalogue = catalogue
        self._engine = engine
        self._max_text_characters, self._max_texts = max_text_characters, max_texts
        self._max_segment_characters, self._max_segment_pieces = max_segment_characters, max_segment_pieces

    @property
    def pairs(self) -> tuple[LanguagePair, ...]:
        """What it can translate."""
        return self.catalogue.languages.pairs

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
        (model,) = self.catalogue.route(request.source, request.target)
        self._check(request.texts)
        async with model.in_use(deadline) as name:
            events = self._stream(request, model.facts, name, deadline)
            async with aclosing(events):
                async for event in events:
                    yield event

    async def _stream(
        self, request: TranslationRequest, facts: Facts, name: str, deadline: float | None
    ) -> AsyncGenerator[SegmentTranslation | TranslationResponse]:
        long = sum(map(len, request.texts)) > INLINE_CHARACTERS
        assembly = await asyncio.to_thread(self._read, request, facts) if long else self._read(request, facts)
        config = facts.config
        options = search_options(request.options, config)
        jobs = [SegmentJob(tuple(pieces), options, request.options.alignment) for pieces in assembly.pieces]
        try:
            outcome = await self._engine.translate(name, jobs, deadline)
        except SegmentFailedError as error:
            raise TextFailedError(assembly.text_of(error.segment), error) from error
        for segment, result in enumerate(outcome.results):
            yield assembly.add(segment, result)
        translations = await asyncio.to_thread(assembly.translations) if long else assembly.translations()
        timings = (outcome.queue_seconds, outcome.compute_seconds)
        yield TranslationResponse(translations, config.name, config.version, config.source, config.target, *timings)

    def _check(self, texts: Sequence[str]) -> None:
        if len(texts) > self._max_texts:
            raise TooManyTextsError(len(texts), self._max_texts)
        for number, text in enumerate(texts):
            if len(text) > self._max_text_characters:
                raise TextTooLargeError(number, len(text), self._max_text_characters)

    def _read(self, request: TranslationRequest, facts: Facts) -> Assembly:
        limits = (self._max_segment_characters, self._max_segment_pieces)
        passages = []
        for number, text in enumerate(request.texts):
            try:
                passages.append(Passage.read(text, facts.config.source, facts.tokenizers.source, *limits))
            except InvalidTextError as error:
                raise BadTextError(number, str(error)) from error
        return Assembly(passages, facts.tokenizers, request.options)


def search_options(options: TranslationOptions, config: CheckpointConfig) -> SearchOptions:
    """What a segment asks of the search, where options leave it open as the checkpoint has it."""
    penalty = config.length_penalty
    if options.length_penalty is not None:
        kind = "power" if penalty.kind == "none" else penalty.kind
        penalty = LengthPenalty(kind=kind, alpha=options.length_penalty)
    return SearchOptions(options.beam_size or max(config.beam_size, options.n_best), options.n_best, penalty)
