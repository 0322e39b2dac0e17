"""Texts to translations: cut, encoded, translated by the engine, decoded and put together again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from typing import NamedTuple

from app.assembly import Assembly
from app.catalogue import Catalogue
from app.engine import Engine, ResultStream, SegmentFailedError, SegmentJob
from app.languages import DuplicatePairError
from app.passage import Passage
from app.pivot import Leg, Limits, PivotStream
from app.translation import (
    Alternative,
    BadTextError,
    LanguagePair,
    ModelVersion,
    PivotOptionError,
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
from tokenizer.subword import TokenizerPair

__all__ = [
    "Alternative",
    "BadTextError",
    "DuplicatePairError",
    "LanguagePair",
    "ModelVersion",
    "PivotOptionError",
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
        self._limits = Limits(max_segment_characters, max_segment_pieces)

    @property
    def pairs(self) -> tuple[LanguagePair, ...]:
        """What it can translate."""
        return self.catalogue.languages.pairs

    async def translate(self, request: TranslationRequest) -> TranslationResponse:
        """Translate every text of a request, all of their segments together.

        A blank text is its own translation. Raises UnsupportedPairError, TooManyTextsError, TextTooLargeError,
        BadTextError, TextFailedError, and the errors of :meth:`app.engine.engine.Engine.stream`.
        """
        async with self._asked(request) as work, aclosing(work.results) as results:
            with work.naming_texts():
                async for segment, result in results:
                    work.assembly.add(segment, result)
            return await work.response()

    async def stream(self, request: TranslationRequest) -> AsyncGenerator[SegmentTranslation | TranslationResponse]:
        """Every segment as soon as it is translated, in whatever order, and at last the whole response.

        Raises the errors of :meth:`translate`. Whoever does not read to the end closes the generator, which drops what
        is left to do.
        """
        async with self._asked(request) as work, aclosing(work.results) as results:
            with work.naming_texts():
                async for segment, result in results:
                    work.assembly.add(segment, result)
                    yield work.assembly.segment(segment)
            yield await work.response()

    @asynccontextmanager
    async def _asked(self, request: TranslationRequest) -> AsyncIterator[_Work]:
        """The request, read and with the engine."""
        deadline = None if request.deadline_seconds is None else time.monotonic() + request.deadline_seconds
        route = self.catalogue.route(request.source, request.target)
        self._check(request.texts)
        _require_meaning(request.options, [model.facts.config for model in route])
        async with AsyncExitStack() as stack:
            legs = [
                Leg(
                    await stack.enter_async_context(model.in_use(deadline)),
                    model.facts,
                    search_options(request.options, model.facts.config),
                )
                for model in route
            ]
            long = sum(map(len, request.texts)) > INLINE_CHARACTERS
            assembly = await asyncio.to_thread(self._read, request, legs) if long else self._read(request, legs)
            options = legs[0].options
            jobs = [SegmentJob(tuple(pieces), options, request.options.alignment) for pieces in assembly.pieces]
            yield _Work(legs, assembly, self._translate(legs, jobs, deadline, request), long)

    def _translate(
        self, legs: Sequence[Leg], jobs: Sequence[SegmentJob], deadline: float | None, request: TranslationRequest
    ) -> ResultStream | PivotStream:
        match legs:
            case [leg]:
                return self._engine.stream(leg.name, jobs, deadline, priority=request.urgency, partial=request.partial)
            case [first, second]:
                return PivotStream(
                    self._engine,
                    (first, second),
                    jobs,
                    deadline,
                    self._limits,
                    priority=request.urgency,
                    partial=request.partial,
                )
        raise ValueError(f"a route has one model or two, got {len(legs)}")

    def _check(self, texts: Sequence[str]) -> None:
        if len(texts) > self._max_texts:
            raise TooManyTextsError(len(texts), self._max_texts)
        for number, text in enumerate(texts):
            if len(text) > self._max_text_characters:
                raise TextTooLargeError(number, len(text), self._max_text_characters)

    def _read(self, request: TranslationRequest, legs: Sequence[Leg]) -> Assembly:
        first, last = legs[0].facts, legs[-1].facts
        source = first.tokenizers.source
        passages = []
        for number, text in enumerate(request.texts):
            try:
                passages.append(Passage.read(text, first.config.source, source, *self._limits))
            except InvalidTextError as error:
                raise BadTextError(number, str(error)) from error
        return Assembly(passages, TokenizerPair(source, last.tokenizers.target), request.options)


class _Work(NamedTuple):
    """A request on its way."""

    legs: Sequence[Leg]
    assembly: Assembly
    results: ResultStream | PivotStream
    long: bool  # too much to be put together on the event loop

    @contextmanager
    def naming_texts(self) -> Iterator[None]:
        """The model's failure on a segment becomes its failure on a text."""
        try:
            yield
        except SegmentFailedError as error:
            raise TextFailedError(self.assembly.text_of(error.segment), error) from error

    async def response(self) -> TranslationResponse:
        """Once all results are there."""
        together = self.assembly.translations
        translations = await asyncio.to_thread(together) if self.long else together()
        first, last = self.legs[0].facts.config, self.legs[-1].facts.config
        return TranslationResponse(
            translations,
            last.name,
            last.version,
            first.source,
            last.target,
            self.results.queue_seconds,
            self.results.compute_seconds,
            pivot=first.target if len(self.legs) > 1 else None,
            models=tuple(ModelVersion(leg.facts.config.name, leg.facts.config.version) for leg in self.legs),
        )


def _require_meaning(options: TranslationOptions, route: Sequence[CheckpointConfig]) -> None:
    """Raises PivotOptionError for what two models one after the other cannot give."""
    if len(route) < 2:
        return
    first, last = route
    for option, asked in (("n_best", options.n_best > 1), ("alignment", options.alignment), ("scores", options.scores)):
        if asked:
            raise PivotOptionError(option, first.source, last.target, first.target)


def search_options(options: TranslationOptions, config: CheckpointConfig) -> SearchOptions:
    """What a segment asks of the search, where options leave it open as the checkpoint has it."""
    penalty = config.length_penalty
    if options.length_penalty is not None:
        kind = "power" if penalty.kind == "none" else penalty.kind
        penalty = LengthPenalty(kind=kind, alpha=options.length_penalty)
    return SearchOptions(options.beam_size or max(config.beam_size, options.n_best), options.n_best, penalty)
