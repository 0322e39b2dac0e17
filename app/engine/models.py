"""The models by name, exchanged while others are at work."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping
from typing import NamedTuple

from app.engine.errors import UnknownModelError
from model.config import LengthLimit
from model.search import BeamSearch
from model.seq2seq import Seq2Seq
from model.shortlist import Shortlist


class EngineModel(NamedTuple):
    """What the engine translates with."""

    model: Seq2Seq
    length_limit: LengthLimit
    shortlist: Shortlist | None = None

    def search(self) -> BeamSearch:
        """A new search, of no sentences."""
        return BeamSearch(self.model, self.length_limit, self.shortlist)


class Generation:
    """A model as loaded once. A request keeps the one under which it arrived, also when the name gets another."""

    def __init__(self, name: str, number: int, loaded: EngineModel) -> None:
        self.name, self.number, self.loaded = name, number, loaded
        self.retired = False  # takes no new requests


class Models:
    """The generation that each name stands for now. Safe to use from any thread."""

    def __init__(self, models: Mapping[str, EngineModel]) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._current = {name: Generation(name, next(self._numbers), loaded) for name, loaded in models.items()}

    def current(self) -> list[Generation]:
        """Every generation that takes requests."""
        with self._lock:
            return list(self._current.values())

    def find(self, name: str) -> Generation:
        """Raises UnknownModelError."""
        with self._lock:
            if name not in self._current:
                raise UnknownModelError(name, tuple(self._current))
            return self._current[name]

    def replace(self, name: str, loaded: EngineModel) -> Generation | None:
        """Let ``name`` stand for a new generation; returns the old one, now retired, if there was one."""
        with self._lock:
            old = self._current.get(name)
            self._current[name] = Generation(name, next(self._numbers), loaded)
            if old is not None:
                old.retired = True
            return old

    def remove(self, name: str) -> Generation:
        """Returns the generation, now retired. Raises UnknownModelError."""
        with self._lock:
            if name not in self._current:
                raise UnknownModelError(name, tuple(self._current))
            old = self._current.pop(name)
            old.retired = True
            return old
