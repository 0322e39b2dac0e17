"""A search, and whose sentences are in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from app.engine.flights import Flight
from app.engine.models import EngineModel
from model.search import STRIDE, Finished


class Landed(NamedTuple):
    """A sentence that has left the search."""

    flight: Flight
    finished: Finished


class FlightSearch:
    """Sentences that a model translates together. Its methods raise whatever the search raises."""

    def __init__(self, loaded: EngineModel) -> None:
        self._search = loaded.search()
        self._flights: dict[int, Flight] = {}  # by ticket

    def __len__(self) -> int:
        return len(self._flights)

    @property
    def flights(self) -> list[Flight]:
        return list(self._flights.values())

    @property
    def whole(self) -> bool:
        """Whether the search holds just these; not where it failed halfway through an admission."""
        return self._search.active == len(self._flights)

    @property
    def rows(self) -> int:
        """Rows of the decoder."""
        return self._search.rows

    @property
    def padded_tokens(self) -> int:
        """Source positions held in memory, padding included."""
        return self._search.padded_tokens

    @property
    def steps(self) -> int:
        """Taken so far."""
        return self._search.steps

    @property
    def tokens(self) -> int:
        """The same without padding."""
        return sum(flight.job.tokens for flight in self._flights.values())

    def admit(self, flights: Sequence[Flight]) -> None:
        tickets = self._search.admit([item.job.pieces for item in flights], [item.job.options for item in flights])
        self._flights.update(zip(tickets, flights, strict=True))

    def step(self) -> list[Landed]:
        """Take every sentence a step further, or a few; returns those that are done."""
        return [Landed(self._flights.pop(item.ticket), item) for item in self._search.step(STRIDE)]

    def cancel(self, leaves: Callable[[Flight], bool]) -> None:
        """Take out the sentences that leave, their rows with them."""
        gone = [ticket for ticket, flight in self._flights.items() if leaves(flight)]
        for ticket in gone:
            del self._flights[ticket]
        if gone:
            self._search.cancel(gone)

    def interrupt(self, leaves: Callable[[Flight], bool]) -> list[Landed]:
        """Take out the sentences that leave, with the best that they have."""
        late = [ticket for ticket, flight in self._flights.items() if leaves(flight)]
        if not late:
            return []
        return [Landed(self._flights.pop(item.ticket), item) for item in self._search.interrupt(late)]
