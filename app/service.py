"""What one process serves with: its checkpoints, their translator, the engine, and whether it is being shut down."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, cast

from fastapi import Depends, Request

from app.catalogue import Catalogue
from app.engine import Engine, NotReadyError
from app.metrics import Metrics
from app.settings import Settings
from app.translator import SegmentTranslation, TranslationRequest, TranslationResponse, Translator
from model.checkpoint import load_checkpoint


class Service:
    """Loads the checkpoints of ``settings`` at once; start and stop run the engine.

    Raises SettingsError, CheckpointError, TokenizerError and DuplicatePairError for what cannot be loaded.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        checkpoints = [load_checkpoint(folder) for folder in settings.checkpoint_folders()]
        self.engine = Engine(
            {item.config.name: (item.model, item.config.length_limit) for item in checkpoints},
            queue_tokens=settings.queue_tokens,
            batch_tokens=settings.batch_tokens,
            threads=settings.thread_count(),
            observer=self.metrics,
        )
        self.metrics.watch_speed(lambda: self.engine.tokens_per_second)
        self.translator = Translator(
            Catalogue.of(checkpoints),
            self.engine,
            max_text_characters=settings.max_text_characters,
            max_texts=settings.max_texts,
        )
        self.draining = False
        self.in_flight = 0

    @property
    def catalogue(self) -> Catalogue:
        """What is served at the moment."""
        return self.translator.catalogue

    def start(self) -> None:
        """Start computing; the engine warms up by itself, and until then the service is not ready."""
        self.engine.start()

    def stop(self) -> None:
        """End the engine's thread; requests still under way get NotReadyError. Blocks for a step at most."""
        self.drain()
        self.engine.stop(drain_seconds=0.0)

    def drain(self) -> None:
        """From now on refuse new requests; those under way go on."""
        self.draining = True

    def check_ready(self) -> None:
        """Raise NotReadyError unless new requests can be taken."""
        obstacle = "the service is shutting down" if self.draining else self.engine.obstacle
        if obstacle is not None:
            raise NotReadyError(obstacle)

    async def translate(self, request: TranslationRequest) -> TranslationResponse:
        """Translate, counted as in flight. Raises NotReadyError and whatever the translator raises."""
        self.check_ready()
        self.in_flight += 1
        try:
            return await self.translator.translate(request)
        finally:
            self.in_flight -= 1

    async def stream(self, request: TranslationRequest) -> AsyncGenerator[SegmentTranslation | TranslationResponse]:
        """The same, segment by segment, and at last the whole response."""
        self.check_ready()
        self.in_flight += 1
        try:
            async with aclosing(self.translator.stream(request)) as events:
                async for event in events:
                    yield event
        finally:
            self.in_flight -= 1


def _service(request: Request) -> Service:
    return cast(Service, request.app.state.service)


ServiceDependency = Annotated[Service, Depends(_service)]
