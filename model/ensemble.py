"""Several models that decode as one: what the search sees. A model alone is an ensemble of one.

The distribution of the next piece is the arithmetic mean of the members' (Hansen & Salamon 1990; for translation
Sutskever et al. 2014; of probabilities, not of their logarithms, as in fairseq: Ott et al. 2019)::

    P(y_t | y_<t, x) = 1/M sum_m P_m(y_t | y_<t, x)

Members may differ in sizes, cells and attentions; they read and write the same pieces.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from model.config import ModelConfig
from model.decoder import Memory, State
from model.seq2seq import Output, Ranking, Seq2Seq
from model.tree import join_rows, select_rows


class EnsembleError(ValueError):
    """Models that cannot decode together; the message says which and what would be right."""


class EnsembleMemory(NamedTuple):
    """What each member's attention looks at: one slot (B) a sentence, S source positions, the same for all."""

    members: tuple[Memory, ...]

    @property
    def mask(self) -> Tensor:
        """(B, S) bool, true at real source positions."""
        return self.members[0].mask

    def select(self, slots: Tensor) -> EnsembleMemory:
        """Reorder, repeat or drop sentences: ``slots`` (B') int64."""
        return select_rows(self, slots)

    def resize(self, positions: int) -> EnsembleMemory:
        """Pad or cut to ``positions`` source positions; what is cut must be padding."""
        return EnsembleMemory(tuple(memory.resize(positions) for memory in self.members))

    def join(self, other: EnsembleMemory) -> EnsembleMemory:
        """The sentences of both, which must have equally many source positions."""
        return join_rows(self, other)


class EnsembleState(NamedTuple):
    """Each member's decoder between two steps, one row (N) a hypothesis; rows of a sentence stand together."""

    members: tuple[State, ...]

    def select(self, rows: Tensor) -> EnsembleState:
        """Reorder, repeat or drop hypotheses: ``rows`` (N') int64."""
        return select_rows(self, rows)

    def join(self, other: EnsembleState) -> EnsembleState:
        """The hypotheses of both."""
        return join_rows(self, other)


class Ensemble:
    """Models that share their vocabularies, decoding together through the same three pure functions as one model."""

    def __init__(self, members: Sequence[Seq2Seq]) -> None:
        """Raises EnsembleError where there is no member, or members differ in vocabulary, reserved ids or device."""
        if not members:
            raise EnsembleError("an ensemble needs at least one model")
        self.members = tuple(members)
        for number, member in enumerate(self.members[1:], start=2):
            _require_equal(number, "(source pieces, target pieces)", _sizes(member), _sizes(self.members[0]))
            _require_equal(number, "(pad, unk, bos, eos)", _reserved(member), _reserved(self.members[0]))
            _require_equal(number, "device", str(member.device), str(self.members[0].device))

    @property
    def config(self) -> ModelConfig:
        """The first member's; in vocabularies and reserved ids all members agree with it."""
        return self.members[0].config

    @property
    def device(self) -> torch.device:
        """Where all members compute."""
        return self.members[0].device

    def encode(self, source: Tensor, source_lengths: Tensor) -> EnsembleMemory:
        """Memory of ``source`` (B, S) int64 with ``source_lengths`` (B) int64, as :meth:`Seq2Seq.encode`."""
        return EnsembleMemory(tuple(member.encode(source, source_lengths) for member in self.members))

    def start(self, memory: EnsembleMemory) -> EnsembleState:
        """State before the first piece, one row a sentence."""
        pairs = zip(self.members, memory.members, strict=True)
        return EnsembleState(tuple(member.start(part) for member, part in pairs))

    def rows(self, pieces: Tensor) -> tuple[Output, ...]:
        """Each member's output for ``pieces`` (R) int64 alone; :meth:`step` takes them."""
        return tuple(member.rows(pieces) for member in self.members)

    def step(
        self, state: EnsembleState, token: Tensor, memory: EnsembleMemory, outputs: Sequence[Output] = ()
    ) -> tuple[Tensor, EnsembleState]:
        """Logits (N, V) of the piece after ``token`` (N) int64, and the next state; with ``outputs``, logits (N, R).

        Of several members the logits are log-probabilities, float32 or better; a member alone gives its own logits.
        """
        each: list[tuple[Output, ...]] = [(output,) for output in outputs] or [()] * len(self.members)
        parts = zip(self.members, state.members, memory.members, each, strict=True)
        steps = [member.step(own, token, seen, *output) for member, own, seen, output in parts]
        following = EnsembleState(tuple(after for _, after in steps))
        return _mean([logits for logits, _ in steps]), following

    @property
    def strides(self) -> bool:
        """Whether there is :meth:`stride`: for a member alone."""
        return len(self.members) == 1 and self.members[0].strides

    def stride(
        self, state: EnsembleState, token: Tensor, memory: EnsembleMemory, ranking: Ranking, most: int
    ) -> tuple[Tensor, EnsembleState]:
        """As :meth:`Seq2Seq.stride`."""
        (member,), (own,), (seen,) = self.members, state.members, memory.members
        keys, following = member.stride(own, token, seen, ranking, most)
        return keys, EnsembleState((following,))


Model: TypeAlias = Seq2Seq | Ensemble


def as_ensemble(model: Model) -> Ensemble:
    """``model`` as the search wants it."""
    return model if isinstance(model, Ensemble) else Ensemble([model])


def _mean(logits: Sequence[Tensor]) -> Tensor:
    """Logarithm of the mean of the distributions of some ``logits`` (N, V), by log-sum-exp: nothing underflows.

    Written out, one array after another: `torch.logsumexp` over the dimension of members is much slower on a CPU.
    """
    if len(logits) == 1:
        return logits[0]
    precise = [part.to(torch.promote_types(part.dtype, torch.float32)) for part in logits]
    each = [torch.log_softmax(part, dim=-1) for part in precise]
    peak = functools.reduce(torch.maximum, each)
    peak = peak.clamp(min=torch.finfo(peak.dtype).min)  # minus infinity, impossible to all, less itself is no number
    total = functools.reduce(Tensor.add_, [part.sub_(peak).exp_() for part in each])
    return total.div_(len(logits)).log_().add_(peak)


def _sizes(model: Seq2Seq) -> tuple[int, int]:
    return model.config.source_vocabulary, model.config.target_vocabulary


def _reserved(model: Seq2Seq) -> tuple[int, int, int, int]:
    config = model.config
    return config.pad, config.unk, config.bos, config.eos


def _require_equal(number: int, what: str, found: object, expected: object) -> None:
    if found != expected:
        raise EnsembleError(
            f"model {number} of the ensemble has {what} = {found}, the first has {expected}; they must be the same"
        )
