"""The HTTP server of one process: requests under way finish before it ends, and a hangup reads checkpoints anew."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Callable, Mapping
from types import FrameType

import structlog
import uvicorn
from fastapi import FastAPI

from app import logs, memory
from app.api.door import door
from app.gathering import event_loop
from app.hangup import Hangup
from app.main import create_app
from app.service import Service
from app.settings import Settings
from model.precision import Precision

logger = structlog.get_logger("app.server")


class GatheringConfig(uvicorn.Config):
    """Uvicorn's settings, with our event loop.

    uvloop, where it is installed, would take Python's lock anew for each event, and wait for the lanes each time.
    """

    def get_loop_factory(self) -> Callable[[], asyncio.AbstractEventLoop]:
        service: Service = self.app.state.service  # type: ignore[union-attr]
        return lambda: event_loop(lambda: service.engine.wait_seconds)


class DrainingServer(uvicorn.Server):
    """Uvicorn, but the first SIGTERM or SIGINT only starts the drain, and SIGHUP reloads the checkpoints.

    Uvicorn alone would close its listening socket at once; here new requests get a problem document of status 503
    until those under way are done or the drain time is over. A second SIGINT ends the process at once.
    """

    def __init__(
        self, config: uvicorn.Config, service: Service, hangup: Hangup, on_started: Callable[[Service], None]
    ) -> None:
        super().__init__(config)
        self.service, self.hangup, self.on_started = service, hangup, on_started
        self.drain_until: float | None = None
        self._reloads: set[asyncio.Task[object]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.on_started(self.service)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.drain_until is None:
            self.service.drain()
            self.drain_until = time.monotonic() + self.service.settings.drain_seconds
        elif sig == signal.SIGINT:
            self.should_exit = self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        if self.drain_until is not None and not self.should_exit:
            over = time.monotonic() >= self.drain_until
            if over and self.service.in_flight:
                logger.warning("drain time is over", requests_given_up=self.service.in_flight)
                await asyncio.to_thread(self.service.stop)
            self.should_exit = over or not self.service.in_flight
        elif self.hangup.take():
            task = asyncio.create_task(self.service.reload())
            self._reloads.add(task)
            task.add_done_callback(self._reloads.discard)
        return await super().on_tick(counter)


def serve(
    settings: Settings,
    hangup: Hangup,
    *,
    sockets: list[socket.socket] | None = None,
    precisions: Mapping[str, Precision] | None = None,
    on_started: Callable[[Service], None] = lambda service: None,
) -> None:
    """Serve until SIGTERM or SIGINT; returns after the drain. ``sockets`` are bound, else those of the settings are.

    ``on_started`` is called once requests are accepted. Raises what :func:`app.main.create_app` raises.
    """
    logs.configure(settings.log_level)
    memory.bound()
    app: FastAPI = create_app(settings, precisions)
    service: Service = app.state.service
    config = GatheringConfig(
        app,
        http=door(app.state.overload, service.metrics, settings.max_body_bytes),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=settings.keep_alive_seconds,
        # The drain has waited for the requests before; this is for answers on their way to slow clients.
        timeout_graceful_shutdown=5,
    )
    DrainingServer(config, service, hangup, on_started).run(sockets)
