"""Checkpoint folders to served models: read, checked, made ready for this machine and handed to the engine."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import structlog
import torch

from app.engine import Engine
from app.engine.models import EngineModel
from app.memory import loading
from app.served import ChangedCheckpointError, Facts, ServedModel
from model.checkpoint import SUMS, Checkpoint, CheckpointError, CheckpointMissingError, load_checkpoint
from model.config import ModelConfig
from model.native import capability
from model.precision import Precision, prepare
from tokenizer.subword import load_tokenizers

logger = structlog.get_logger("app.models")


class Choice(NamedTuple):
    """A precision, and the measurement that chose it."""

    precision: Precision
    measured: Mapping[str, float]  # seconds of each precision that was tried


class Loader:
    """Loads checkpoints with the operator's choices. Every call blocks and may come from any thread."""

    def __init__(
        self, precision: Literal["auto"] | Precision, shortlist: bool, precisions: Mapping[str, Precision]
    ) -> None:
        """``precisions`` stand above ``precision`` for the models that they name, and those loaded later join them.

        So what was measured once holds: while others are at work there is nothing to be measured. It holds for models
        of the same shape as well, which start sooner for it.
        """
        self._precision, self._shortlist, self._precisions = precision, shortlist, dict(precisions)
        self._measured: dict[ModelConfig, Choice] = {}
        self._numbers = itertools.count(1)
        self.engine: Engine | None = None  # the one that models are handed to, once there is one

    def read(self, folder: Path) -> tuple[Facts, EngineModel]:
        """Load a checkpoint, not yet into the engine. Raises CheckpointError, TokenizerError and OSError."""
        return self._read(folder, None)

    def load(self, folder: Path) -> ServedModel:
        """Load a checkpoint into the engine. Raises what :meth:`read` raises, and ModelFailedError."""
        facts, ready = self.read(folder)
        model = ServedModel(facts, self._hand_over(facts, ready), self)
        announce(facts)
        return model

    def name(self, facts: Facts) -> str:
        """A name for the engine: the model's, and a number, so that no two that were ever loaded are mixed up."""
        return f"{facts.config.name}#{next(self._numbers)}"

    def load_again(self, facts: Facts) -> str:
        """See :class:`app.served.Weights`. The precision is that of the first time."""
        if fingerprint(facts.folder) != facts.fingerprint:
            raise ChangedCheckpointError(facts.folder)
        again, ready = self._read(facts.folder, facts.precision)
        if again.fingerprint != facts.fingerprint:
            raise ChangedCheckpointError(facts.folder)
        return self._hand_over(again, ready)

    def unload(self, handle: str) -> None:
        assert self.engine is not None
        self.engine.unload(handle)

    def _hand_over(self, facts: Facts, ready: EngineModel) -> str:
        assert self.engine is not None
        handle = self.name(facts)
        self.engine.load(handle, *ready)
        return handle

    def _read(self, folder: Path, precision: Precision | None) -> tuple[Facts, EngineModel]:
        began = time.monotonic()
        # Of the thread that calls. Several would wait for each other whenever something else runs here, and a model is
        # packed in many small operations.
        torch.set_num_threads(1)
        real = folder.resolve()  # a link may be turned to another folder at any moment, and a folder replaced
        sums = fingerprint(real)
        with loading():
            checkpoint = load_checkpoint(real)
            precision = precision or self._precisions.get(checkpoint.config.name)
            facts, ready = self._prepare(folder, checkpoint, precision or self._precision)
        if not sums == facts.fingerprint == fingerprint(real):
            raise CheckpointError(f"{folder} was replaced while it was read; load it again")
        self._precisions.setdefault(checkpoint.config.name, facts.precision)
        return facts._replace(load_seconds=time.monotonic() - began), ready

    def _prepare(
        self, folder: Path, checkpoint: Checkpoint, precision: Literal["auto"] | Precision
    ) -> tuple[Facts, EngineModel]:
        parameters = sum(weight.numel() for weight in checkpoint.model.parameters())
        measured: Mapping[str, float] = {}
        if precision == "auto" and (choice := self._measured.get(checkpoint.config.model)):
            precision, measured = choice
        prepared = prepare(checkpoint.model, precision)
        if precision == "auto":
            measured = prepared.measured
            self._measured[checkpoint.config.model] = Choice(prepared.precision, measured)
        shortlist = checkpoint.shortlist if self._shortlist else None
        facts = Facts(
            folder=folder,
            fingerprint=fingerprint(checkpoint.folder),
            config=checkpoint.config,
            tokenizers=load_tokenizers(checkpoint.folder),
            parameters=parameters,
            precision=prepared.precision,
            measured=measured,
            shortlist=shortlist is not None,
            load_seconds=0.0,
        )
        return facts, EngineModel(prepared.model, checkpoint.config.length_limit, shortlist)


def announce(facts: Facts) -> None:
    """Log what was loaded and in which precision, with the measurement that chose it."""
    logger.info(
        "model loaded",
        model=facts.config.name,
        version=facts.config.version,
        precision=facts.precision,
        measured_ms={name: round(seconds * 1000, 2) for name, seconds in facts.measured.items()},
        operators=capability(),
        shortlist=facts.shortlist,
        seconds=round(facts.load_seconds, 3),
    )


def fingerprint(folder: Path) -> str:
    """Tells one checkpoint from another by the hashes of its files. Raises CheckpointMissingError, OSError."""
    try:
        return hashlib.sha256((folder / SUMS).read_bytes()).hexdigest()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointMissingError(
            f"{folder / SUMS} is missing; a checkpoint lists its files' hashes there"
        ) from error
