"""The service as an ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version

import anyio.to_thread
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from app.api import admin, handlers, health, metrics, openapi, pages, v1
from app.api.middleware import BodyLimitMiddleware, RequestMiddleware
from app.api.overload import Overload, OverloadMiddleware
from app.api.v1_request import TranslateBody
from app.service import Service
from app.settings import Settings, load_settings
from model.precision import Precision

READY_SECONDS = 600.0

DESCRIPTION = """Translates text between the language pairs of the loaded checkpoints.

Errors are problem documents (RFC 9457, `application/problem+json`) whose `type` is stable.

Limits of this service: {max_text_characters} characters (Unicode code points) a text, {max_texts} texts and
{max_body_bytes} bytes a request, a beam of {max_beam_size}, {deadline_ms} ms."""


def create_app(settings: Settings | None = None, precisions: Mapping[str, Precision] | None = None) -> FastAPI:
    """Load the checkpoints and build the application; its lifespan runs the engine.

    Without ``settings`` they are read from the environment; ``precisions`` stand above theirs, by model. Raises
    SettingsError, CheckpointError or TokenizerError for what cannot be loaded.
    """
    service = Service(settings or load_settings(), precisions)
    app = FastAPI(
        title="Ferry",
        version=version("ferry-nmt"),
        summary="Self-hosted translation.",
        description=DESCRIPTION.format_map(service.settings.model_dump()),
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.service, app.state.overload = service, Overload(v1.TRANSLATE)
    handlers.install(app, known_fields=tuple(TranslateBody.model_fields))
    for room in (v1, health, metrics):
        app.include_router(room.router)
    if service.settings.admin_token is not None:
        app.include_router(admin.router)
    openapi.install(app)
    pages.install(app)
    _add_middleware(app, service)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    service.start()
    if service.settings.workers > 1:  # the others serve meanwhile; this one would only refuse
        await anyio.to_thread.run_sync(service.engine.wait_until_ready, READY_SECONDS)
    keeping = asyncio.create_task(service.keep_house())
    try:
        yield
    finally:
        keeping.cancel()
        await anyio.to_thread.run_sync(service.stop)


def _add_middleware(app: FastAPI, service: Service) -> None:
    """What is added last is outermost."""
    app.add_middleware(OverloadMiddleware, overload=app.state.overload)
    app.add_middleware(BodyLimitMiddleware, limit=service.settings.max_body_bytes)
    if service.settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=service.settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Content-Type", "X-Request-ID"],
            expose_headers=["Retry-After", "X-Request-ID", "Content-Language"],
        )
    app.add_middleware(RequestMiddleware, metrics=service.metrics)
