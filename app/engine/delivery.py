"""Answers from the lanes' threads to the event loops."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict

from app.engine.request import Answer, Request


class Deliveries:
    """Answers collected on a thread and sent together: an event loop wakes up once, however many there are."""

    def __init__(self) -> None:
        self._waiting: defaultdict[asyncio.AbstractEventLoop, list[tuple[Request, Answer]]] = defaultdict(list)

    def add(self, request: Request, answer: Answer) -> None:
        self._waiting[request.inbox.loop].append((request, answer))

    def send(self) -> None:
        """Put every answer into the inbox of its request, soon, on the request's event loop."""
        waiting = dict(self._waiting)
        self._waiting.clear()
        for loop, answers in waiting.items():
            # A closed loop refuses the call; nobody can be waiting on it.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_hand_over, answers)


def _hand_over(answers: list[tuple[Request, Answer]]) -> None:
    for request, answer in answers:
        request.inbox.receive(answer)
