"""Work that ends when the client goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from typing import TypeVar

from fastapi import Request
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

Result = TypeVar("Result")
STALLED_SECONDS = 30.0  # a client that takes nothing for so long is taken for gone


class ClientGoneError(Exception):
    """The client closed its connection, or stopped reading, before it had its answer."""


async def unless_disconnected(request: Request, work: Awaitable[Result]) -> Result:
    """Result of ``work``; cancels it and raises ClientGoneError as soon as the client of ``request`` is gone.

    The body of ``request`` must have been read.
    """
    working = asyncio.current_task()
    assert working is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        await _disconnected(request)
        gone = True
        working.cancel()

    watcher = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if gone and not working.uncancel():  # else it is cancelled for another reason as well
            raise ClientGoneError from None
        raise
    finally:
        watcher.cancel()


class WatchedStream(StreamingResponse):
    """Writes what a generator makes, no faster than the client reads; closes it when done, or when the client is gone.

    Raises ClientGoneError when the client is gone, after the start of the response too.
    """

    def __init__(self, chunks: AsyncGenerator[str], media_type: str) -> None:
        # nginx would hold a streamed answer back until it is whole.
        super().__init__(
            chunks, media_type=media_type, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            try:
                async with asyncio.timeout(STALLED_SECONDS):
                    await send(message)
            except TimeoutError:
                raise ClientGoneError from None

        async with aclosing(self._chunks):
            await unless_disconnected(Request(scope, receive), self.stream_response(send_in_time))


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
