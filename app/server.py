"""The HTTP server, with a drain in which requests under way finish while new ones are told so."""

from __future__ import annotations

import asyncio
import signal
import time
from types import FrameType

import structlog
import uvicorn
from fastapi import FastAPI

from app.service import Service

logger = structlog.get_logger("app.server")


class DrainingServer(uvicorn.Server):
    """Uvicorn, but the first SIGTERM or SIGINT only starts the drain.

    Uvicorn alone would close its listening socket at once; here new requests get a problem document of status 503
    until those under way are done or the drain time is over. A second SIGINT ends the process at once.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service
        self.drain_until: float | None = None

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
        return await super().on_tick(counter)


def run(app: FastAPI) -> None:
    """Serve until SIGTERM or SIGINT; returns after the drain."""
    service: Service = app.state.service
    config = uvicorn.Config(
        app,
        host=service.settings.host,
        port=service.settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        # The drain has waited for the requests before; this is for answers on their way to slow clients.
        timeout_graceful_shutdown=5,
    )
    DrainingServer(config, service).run()
