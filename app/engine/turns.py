"""Whose job comes next."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice

from app.engine.jobs import Priority, SegmentJob
from app.engine.request import Request

# What bulk waits longer than interactive requests when both want the same. It never waits for ever: an interactive
# request that comes later than this after it comes behind it.
HANDICAP_SECONDS = {Priority.INTERACTIVE: 0.0, Priority.BULK: 5.0}
OVERTAKEN_AT_MOST = 64  # times; then nobody goes before a job that does not fit until it does
LOOKED_AT = 32  # requests, for one that fits


class Turns:
    """The requests of one model that have jobs to hand out.

    A request hands out one job a turn. The next turn is that of the one whose last turn, or arrival, is longest ago:
    first come first served, each request in turn with the others, however large it is. Bulk counts as if it had come
    ``HANDICAP_SECONDS`` later, so that waiting makes up for priority.

    Where the next job does not fit, a later one that does goes before it, but not more than ``OVERTAKEN_AT_MOST``
    times: then the batch empties until the job has its place.
    """

    def __init__(self) -> None:
        self._lines: dict[Priority, deque[Request]] = {priority: deque() for priority in Priority}

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __iter__(self) -> Iterator[Request]:
        """In the order of their turns. Each line stands in the order of ``since`` by itself."""
        return heapq.merge(*self._lines.values(), key=lambda item: item.since + HANDICAP_SECONDS[item.priority])

    def add(self, request: Request) -> None:
        """To the end of its line: it has just arrived, or had a turn."""
        self._lines[request.priority].append(request)

    def remove(self, request: Request) -> None:
        self._lines[request.priority].remove(request)

    def next(self, admits: Callable[[SegmentJob], bool]) -> Request | None:
        """The request whose turn it is, of those whose next job fits; it leaves its line."""
        passed: list[Request] = []
        for request in islice(self, LOOKED_AT):
            if admits(request.peek()):
                for other in passed:
                    other.overtaken += 1
                self.remove(request)
                return request
            if request.overtaken >= OVERTAKEN_AT_MOST:
                return None
            passed.append(request)
        return None
