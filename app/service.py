"""What one process serves with: its models, their translator, the engine, and whether it is being shut down."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Annotated, cast

import structlog
from fastapi import Depends, Request

from app.catalogue import Catalogue
from app.engine import Engine, NotReadyError
from app.loading import Loader, announce
from app.memory import give_back, search, set_apart
from app.messages import ReloadReport, joined
from app.metrics import Metrics
from app.reload import Reloader
from app.served import ServedModel
from app.settings import Settings
from app.translator import SegmentTranslation, TranslationRequest, TranslationResponse, Translator
from model.precision import Precision

HOUSEKEEPING_SECONDS = 1.0
GIVE_BACK_SECONDS = 60.0  # between two times that free memory goes back to the system

logger = structlog.get_logger("app.service")


class Service:
    """Loads the checkpoints of ``settings`` at once; start and stop run the engine.

    Raises SettingsError, CheckpointError, TokenizerError and DuplicatePairError for what cannot be loaded.
    """

    def __init__(self, settings: Settings, precisions: Mapping[str, Precision] | None = None) -> None:
        """``precisions`` are those to compute in, by model; the others compute as the settings say."""
        self.settings = settings
        self.metrics = Metrics()
        loader = Loader(settings.precision, settings.shortlist, precisions or {})
        read = [loader.read(folder) for folder in settings.checkpoint_folders()]
        named = {loader.name(facts): (facts, ready) for facts, ready in read}
        served = [ServedModel(facts, name, loader) for name, (facts, _) in named.items()]
        catalogue = Catalogue(served, pivot=settings.pivot)
        for facts, _ in read:
            announce(facts)
        self.engine = loader.engine = Engine(
            {name: ready for name, (_, ready) in named.items()},
            queue_tokens=settings.queue_tokens,
            batch_tokens=settings.batch_tokens,
            threads=settings.thread_count(),
            observer=self.metrics,
            lanes=settings.lanes,
            cache_tokens=settings.cache_tokens,
            longest_wait_seconds=settings.longest_wait_seconds,
            heartbeat_seconds=settings.stuck_seconds / 6,
            stuck_seconds=settings.stuck_seconds,
        )
        self.reload_others: Callable[[], Awaitable[list[ReloadReport]]] = _nobody  # the other workers, where there are
        self._reloader = Reloader(settings.checkpoint_folders, loader, pivot=settings.pivot)
        self.translator = Translator(
            catalogue,
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

    async def keep_house(self) -> None:
        """What has to be seen to once in a while, until cancelled: metrics, models that nobody uses, free memory."""
        given_back = -math.inf
        while True:
            try:
                await self._keep_house()
                if self.engine.ready and time.monotonic() - given_back >= GIVE_BACK_SECONDS:
                    set_apart() if given_back == -math.inf else search()
                    await asyncio.to_thread(give_back)
                    given_back = time.monotonic()
            except Exception:
                logger.exception("housekeeping failed")
            await asyncio.sleep(HOUSEKEEPING_SECONDS)

    def sample(self) -> None:
        """Tell the metrics how things stand."""
        self.metrics.sample(self.engine.tokens_per_second, self.catalogue.models)

    async def _keep_house(self) -> None:
        self.sample()
        if self.settings.idle_unload_minutes is not None:
            for model in self.catalogue.models:
                if await model.drop_if_unused(self.settings.idle_unload_minutes * 60):
                    await asyncio.to_thread(give_back)
        if any(model.outdated for model in self.catalogue.models):
            await self.reload()

    async def reload(self) -> ReloadReport:
        """Read the checkpoint folders anew and serve what they hold now; no request is dropped, and no error raised."""
        report = await self._reloader.reload(lambda: self.catalogue, self._exchange)
        self.metrics.reloaded(failed=bool(report.failed))
        set_apart()
        await asyncio.to_thread(give_back)
        return report

    async def reload_all(self) -> tuple[ReloadReport, int]:
        """The same in all processes that serve the port: what became of it in any, and in how many it was done."""
        reports = [await self.reload(), *await self.reload_others()]
        return joined(reports), len(reports)

    def _exchange(self, catalogue: Catalogue) -> None:
        self.translator.catalogue = catalogue

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


async def _nobody() -> list[ReloadReport]:
    return []


def service_of(request: Request) -> Service:
    """The service that answers a request."""
    return cast(Service, request.app.state.service)


async def _service(request: Request) -> Service:  # async, or a thread would be asked to run it
    return service_of(request)


ServiceDependency = Annotated[Service, Depends(_service)]
