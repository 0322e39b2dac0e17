"""One of several processes that serve one port: what runs in it, and how it reaches the others."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from app.addresses import bound
from app.collecting import importing
from app.explain import explanation
from app.hangup import Hangup
from app.messages import Listening, OthersReloaded, Reload, Reloaded, ReloadReport, ReloadWanted, Serving
from app.settings import Settings

if TYPE_CHECKING:  # it would bring torch
    from model.precision import Precision


class Colleagues:
    """The other workers, as one that serves reaches them: through the supervisor."""

    def __init__(self, pipe: Connection, reload: Callable[[], Awaitable[ReloadReport]]) -> None:
        """To be made within the event loop; ``reload`` reads this worker's checkpoints when another wants it."""
        self._pipe, self._reload = pipe, reload
        self._tickets = itertools.count()
        self._waiting: dict[int, asyncio.Future[list[ReloadReport]]] = {}
        self._reloading: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(pipe.fileno(), self._read)

    async def reload(self) -> list[ReloadReport]:
        """Have all others read the checkpoints anew: a report from each that lives through it."""
        ticket = next(self._tickets)
        self._waiting[ticket] = self._loop.create_future()
        self._pipe.send(ReloadWanted(ticket))
        try:
            return await self._waiting[ticket]
        finally:
            del self._waiting[ticket]

    def _read(self) -> None:
        try:
            message: Reload | OthersReloaded = self._pipe.recv()
        except (EOFError, OSError):  # the supervisor is gone; SIGTERM follows
            self._loop.remove_reader(self._pipe.fileno())
            return
        if isinstance(message, Reload):
            task = asyncio.create_task(self._obey(message))
            self._reloading.add(task)
            task.add_done_callback(self._reloading.discard)
        elif (waiting := self._waiting.get(message.ticket)) and not waiting.done():  # else the request was given up
            waiting.set_result(message.reports)

    async def _obey(self, message: Reload) -> None:
        self._pipe.send(Reloaded(message.round, await self._reload()))


def work(settings: Settings, pipe: Connection, precisions: Mapping[str, Precision]) -> None:
    """A worker: one process that serves the port, from its start to its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; until it serves, SIGTERM follows
    hangup = Hangup()
    threading.Thread(target=_follow_supervisor, daemon=True).start()
    pipe.send(Listening())
    try:
        _serve_with(settings, hangup, pipe, precisions)
    except Exception as error:
        text = explanation(error)
        if text is None:
            raise
        print(f"ferry: {text}", file=sys.stderr)
        sys.exit(1)


def _serve_with(settings: Settings, hangup: Hangup, pipe: Connection, precisions: Mapping[str, Precision]) -> None:
    with importing():
        from app import server
        from app.service import Service

    def tell(service: Service) -> None:
        service.reload_others = Colleagues(pipe, service.reload).reload
        pipe.send(Serving({model.pair.model: model.facts.precision for model in service.catalogue.models}))

    with bound(settings, shared=True) as port:
        server.serve(settings, hangup, sockets=[port], precisions=precisions, on_started=tell)


def _follow_supervisor() -> None:
    """End as by SIGTERM when the supervisor is gone, however it went."""
    supervisor = multiprocessing.parent_process()
    assert supervisor is not None
    supervisor.join()
    os.kill(os.getpid(), signal.SIGTERM)
