"""How much there is to do before a request."""

from __future__ import annotations

from typing import NamedTuple

from app.engine.jobs import Priority

SIZES = 32  # classes of size, each twice as large as the one before


class Left(NamedTuple):
    """What is left to do of a request."""

    tokens: int = 0
    turn: int = 0  # of these, those of a segment, about: what it has at once when its turn comes; 0 if not known


NOTHING = Left()


class Backlog:
    """Tokens that are not done, of all requests, by priority and by the size of what is left of each request.

    As requests take turns, a segment each, one of N tokens waits for at most N tokens of each other, however large that
    is, or for a segment of it where that is more. Counting in classes of size keeps this at a few additions a request.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self._requests = {priority: [0] * SIZES for priority in Priority}
        self._turns = {priority: [0] * SIZES for priority in Priority}
        self._sums = {priority: [0] * SIZES for priority in Priority}

    def change(self, priority: Priority, before: Left, after: Left) -> None:
        """Of a request there was ``before`` left and is ``after``: nothing before it comes and when it has gone."""
        for left, sign in ((before, -1), (after, 1)):
            if left.tokens:
                size = min(left.tokens.bit_length(), SIZES - 1)
                self._requests[priority][size] += sign
                self._turns[priority][size] += sign * left.turn
                self._sums[priority][size] += sign * left.tokens
        self.tokens += after.tokens - before.tokens

    def ahead(self, priority: Priority, tokens: int) -> int:
        """Tokens that are done before a request of ``tokens`` that came now would be."""
        return sum(
            min(total, max(count * tokens, turns))
            for other in Priority
            if other <= priority
            for count, turns, total in zip(self._requests[other], self._turns[other], self._sums[other], strict=True)
            if count
        )
