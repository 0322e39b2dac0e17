"""Sentences under way, each translated once for all who wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from app.engine.jobs import SegmentJob
from app.engine.models import Generation
from app.engine.request import Slot


class Key(NamedTuple):
    """What makes two sentences the same: the model as loaded, the pieces, what is asked of the search."""

    generation: int
    job: SegmentJob


def key_of(model: Generation, job: SegmentJob) -> Key:
    return Key(model.number, job)


class Flight:
    """A sentence that one lane translates, and the slots that wait for it."""

    def __init__(self, key: Key, slot: Slot) -> None:
        self.key, self.slots = key, [slot]

    @property
    def job(self) -> SegmentJob:
        return self.key.job

    @property
    def gone(self) -> bool:
        """Whether nobody waits for it any more."""
        return all(slot.request.gone for slot in self.slots)

    @property
    def cut(self) -> bool:
        """Whether time is over for one of those who wait."""
        return any(slot.request.cut for slot in self.slots)


class Flights:
    """Every sentence under way, in all lanes. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[Key, Flight] = {}

    def has(self, key: Key) -> bool:
        return key in self._flights

    def board(self, slot: Slot) -> Flight | None:
        """Let ``slot`` wait for its sentence; returns the flight if it is new, to be translated by the caller."""
        key = key_of(slot.request.model, slot.job)
        with self._lock:
            flight = self._flights.get(key)
            if flight is not None:
                flight.slots.append(slot)
                return None
            self._flights[key] = Flight(key, slot)
            return self._flights[key]

    def leave(self, flight: Flight, leaves: Callable[[Slot], bool] = lambda _: True) -> list[Slot]:
        """Take out the slots that leave; a flight without any is no longer under way."""
        with self._lock:
            left = [slot for slot in flight.slots if leaves(slot)]
            flight.slots = [slot for slot in flight.slots if not leaves(slot)]
            if not flight.slots:
                self._flights.pop(flight.key, None)
            return left

    def abandon(self, flight: Flight) -> bool:
        """Whether nobody waits for it; it is no longer under way then."""
        with self._lock:
            if not flight.gone:
                return False
            self._flights.pop(flight.key, None)
            return True
