"""How much there is to do before a request."""

from __future__ import annotations

from app.engine.jobs import Priority

SIZES = 32  # classes of size, each twice as large as the one before


class Backlog:
    """Tokens that are not done, of all requests, by priority and by the size of what is left of each request.

    As requests take turns, one of N tokens waits for at most N tokens of each other, however large that is. Counting
    in classes of size keeps this at a few additions a request.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self._requests = {priority: [0] * SIZES for priority in Priority}
        self._sums = {priority: [0] * SIZES for priority in Priority}

    def change(self, priority: Priority, before: int, after: int) -> None:
        """A request that had ``before`` tokens left has ``after``; 0 before it comes and when it has left."""
        for tokens, sign in ((before, -1), (after, 1)):
            if tokens:
                size = min(tokens.bit_length(), SIZES - 1)
                self._requests[priority][size] += sign
                self._sums[priority][size] += sign * tokens
        self.tokens += after - before

    def ahead(self, priority: Priority, tokens: int) -> int:
        """Tokens that are done before a request of ``tokens`` that came now would be."""
        return sum(
            min(total, count * tokens)
            for other in Priority
            if other <= priority
            for count, total in zip(self._requests[other], self._sums[other], strict=True)
        )
