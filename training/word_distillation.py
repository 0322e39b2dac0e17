"""Word-level knowledge distillation: a student learns what teachers predict at each position (Kim & Rush 2016, 3.1).

The target distribution of the objective becomes a mixture::

    (1 - share) * (label-smoothed reference) + share * (mean of the teachers' predictions)

The teachers read the batch that the student reads, without dropout, and the predictions of several are averaged as an
ensemble's are in decoding. All must therefore have the student's very tokenizers: a run with teachers takes theirs
instead of training its own. What they were trained on is kept in the run folder, for the provenance of the checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from model.checkpoint import CheckpointError
from model.ensemble import as_ensemble
from model.seq2seq import Seq2Seq
from tokenizer.subword import TokenizerPair
from training.config import DataConfig, WordDistillation
from training.objective import Prediction, Teaching
from training.state import write_atomically
from training.system import UnusableSystemError
from training.teachers import open_teachers, read_teachers

TEACHERS_FILE = "teachers.json"

_TOKEN_BUDGET = 1  # teachers here never search


class WordDistillationError(Exception):
    """The teachers of a run cannot teach it, or are not those that it began with."""


class WordTeachers:
    """The teachers of a run, on its device."""

    def __init__(self, members: Sequence[Seq2Seq], share: float) -> None:
        # Not a module: what learns, is saved and is shared between ranks is the student alone.
        self.members, self.share = tuple(members), share

    @torch.no_grad()
    def teach(self, source: Tensor, source_lengths: Tensor, target_input: Tensor, real: Tensor) -> Teaching:
        """Predictions for a batch as in :class:`training.batching.Batch`, at the positions ``real`` (N,) int64.

        To be called in the student's autocast, whose precision the teachers compute in as well.
        """
        predictions = []
        for member in self.members:
            features = member(source, source_lengths, target_input).flatten(0, 1).index_select(0, real)
            weight, bias = member.output_weight().to(features.dtype), member.output_bias.to(features.dtype)
            predictions.append(Prediction(features, weight, bias))
        return Teaching(tuple(predictions), self.share)


class Taught(NamedTuple):
    """What is remembered of the teachers: of which checkpoints, and what those were trained on."""

    names: str
    hashes: tuple[str, ...]  # of their SHA256SUMS: equal hashes are equal checkpoints
    data: tuple[str, ...]  # each entry once, with who was trained on it

    def save(self, run_folder: Path) -> None:
        """Write ``teachers.json``."""
        content = json.dumps(self._asdict(), indent=2, ensure_ascii=False) + "\n"
        write_atomically(run_folder / TEACHERS_FILE, content.encode())


def require_teachers(config: WordDistillation, data: DataConfig) -> None:
    """Raises WordDistillationError where a teacher is no checkpoint, or of other languages; reads no weights."""
    try:
        read_teachers(config.teachers, data.source, data.target)
    except (CheckpointError, UnusableSystemError) as error:
        raise WordDistillationError(f"training.word_distillation.teachers: {error}") from error


def open_word_teachers(
    config: WordDistillation, data: DataConfig, tokenizers: TokenizerPair, device: str
) -> tuple[WordTeachers, Taught]:
    """The teachers of a run that has these ``tokenizers``, and what its provenance needs to know of them.

    Raises WordDistillationError where their tokenizers are others; CheckpointError, TokenizerError,
    UnusableSystemError or EnsembleError where they cannot be opened or do not belong together.
    """
    teachers = open_teachers(config.teachers, data.source, data.target, device, _TOKEN_BUDGET)
    if teachers.system.tokenizers.files() != tokenizers.files():
        raise WordDistillationError(
            f"training.word_distillation: the run has other tokenizers than {teachers.names}; run `ferry-train "
            "tokenizer` with this recipe, which takes the teachers', and then fit anew"
        )
    members = as_ensemble(teachers.system.model).members
    taught = Taught(teachers.names, teachers.hashes, teachers.data)
    return WordTeachers(members, config.share), taught


def load_taught(run_folder: Path) -> Taught | None:
    """What ``teachers.json`` says; None for a run without teachers. Raises WordDistillationError if it is damaged."""
    path = run_folder / TEACHERS_FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_bytes())
        return Taught(content["names"], tuple(content["hashes"]), tuple(content["data"]))
    except (ValueError, TypeError, KeyError) as error:
        raise WordDistillationError(f"{path} is damaged ({error!r}); run `ferry-train fit` again") from error


def require_same_teachers(taught: Taught | None, run_folder: Path) -> None:
    """Raises WordDistillationError where a run that is resumed began with others: it would not go on as it began."""
    before = load_taught(run_folder)
    then, now = (each.hashes if each else () for each in (before, taught))
    if then != now:
        raise WordDistillationError(
            f"{run_folder / TEACHERS_FILE}: the run began with the teachers {_named(before)}, now they are "
            f"{_named(taught)}, or their files have changed; put the former back, or start without --resume"
        )


def _named(taught: Taught | None) -> str:
    return taught.names if taught else "none"
