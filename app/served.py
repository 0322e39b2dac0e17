"""A checkpoint as it is served: what a translation needs of it, and whether the engine holds its weights."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import structlog

from app.engine import DeadlineError, NotReadyError
from app.translation import LanguagePair
from model.checkpoint import CheckpointConfig
from model.precision import Precision
from tokenizer.subword import TokenizerPair

logger = structlog.get_logger("app.models")


class ChangedCheckpointError(Exception):
    """A folder does not hold the checkpoint any more that was loaded from it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} holds another checkpoint now")
        self.folder = folder


class Facts(NamedTuple):
    """What there is to know of a checkpoint; it stays in memory when the weights do not."""

    folder: Path
    fingerprint: str  # of its files; another one is another checkpoint
    config: CheckpointConfig
    tokenizers: TokenizerPair
    parameters: int
    precision: Precision  # in which the engine computes
    measured: Mapping[str, float]  # seconds of each precision that was tried; empty where it was set
    shortlist: bool  # whether the vocabulary is cut to a shortlist
    load_seconds: float


class Weights(Protocol):
    """Brings weights into the engine and out of it; both calls block."""

    def load_again(self, facts: Facts) -> str:
        """Load what was dropped; returns the name by which the engine knows it, never the same twice.

        Raises CheckpointError and OSError, and ChangedCheckpointError if the folder holds another checkpoint now.
        """

    def unload(self, handle: str) -> None:
        """Drop the weights when the engine has finished what it admitted with them."""


class ServedModel:
    """One checkpoint, used from the event loop only. It counts its uses, so it knows when nobody needs it."""

    def __init__(self, facts: Facts, handle: str, weights: Weights | None = None) -> None:
        """``handle`` is its name in the engine; without ``weights`` it stays there for good."""
        self.facts = facts
        self._handle: str | None = handle
        self._weights = weights
        self._loading: asyncio.Task[str] | None = None
        self._uses = 0
        self._unused = asyncio.Event()
        self._unused.set()
        self._last_used = time.monotonic()
        self.outdated = False  # dropped, and its folder holds another checkpoint now

    @property
    def pair(self) -> LanguagePair:
        """The languages it translates between."""
        config = self.facts.config
        return LanguagePair(config.source, config.target, config.name)

    @property
    def loaded(self) -> bool:
        """Whether the engine holds the weights."""
        return self._handle is not None

    @asynccontextmanager
    async def in_use(self, deadline: float | None) -> AsyncIterator[str]:
        """The name by which to ask the engine, good within the context; weights that were dropped are loaded first.

        ``deadline`` is a reading of ``time.monotonic()``. Raises DeadlineError if it passes during that, NotReadyError
        if they cannot be loaded.
        """
        self._uses += 1
        self._unused.clear()
        try:
            yield self._handle or await self._load(deadline)
        finally:
            self._uses -= 1
            self._last_used = time.monotonic()
            if not self._uses:
                self._unused.set()

    async def retire(self) -> None:
        """Wait until nobody uses it any more, then drop the weights for good."""
        await self._unused.wait()
        if self._loading is not None:  # for somebody whose deadline has passed since
            await asyncio.wait({self._loading})
        await self._drop()

    async def drop_if_unused(self, seconds: float) -> bool:
        """Drop the weights if nobody has used them for so long; the next use loads them again."""
        if self._uses or not self.loaded or time.monotonic() - self._last_used < seconds:
            return False
        await self._drop()
        return True

    async def _drop(self) -> None:
        handle, self._handle = self._handle, None  # first: whoever comes from now on must load anew
        if handle is not None and self._weights is not None:
            await asyncio.to_thread(self._weights.unload, handle)

    async def _load(self, deadline: float | None) -> str:
        """Load the weights, once for all who wait for them."""
        if self._loading is None:
            self._loading = asyncio.create_task(self._load_once())
        seconds = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.shield(self._loading)
        except TimeoutError:
            raise DeadlineError(f"the model {self.pair.model} was not loaded within the deadline") from None

    async def _load_once(self) -> str:
        assert self._weights is not None, "what cannot be loaded again is never dropped"
        began = time.monotonic()
        try:
            self._handle = await asyncio.to_thread(self._weights.load_again, self.facts)
        except Exception as error:
            self.outdated = isinstance(error, ChangedCheckpointError)
            logger.error("a dropped model could not be loaded again", model=self.pair.model, reason=str(error))
            raise NotReadyError(f"the model {self.pair.model} could not be loaded again: {error}") from error
        finally:
            self._loading = None
        logger.info("model loaded again", model=self.pair.model, seconds=round(time.monotonic() - began, 3))
        return self._handle
