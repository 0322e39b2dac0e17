"""Batches of encoded pairs: bounded by padded tokens, of similar lengths, in an order that seed and epoch decide."""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch

from training.corpus import Corpus
from training.planning import PLANNING, Plan, padded, plan_epoch, plan_in_order
from training.shards import Gathered, IndexArray


class Batch(NamedTuple):
    """B pairs as int64 CPU tensors; lengths count end of sentence."""

    source: torch.Tensor  # (B, S): pieces and end of sentence, padded
    source_lengths: torch.Tensor  # (B,)
    target_input: torch.Tensor  # (B, T): begin of sentence and pieces, padded
    target_output: torch.Tensor  # (B, T): pieces and end of sentence, padded


class Position(NamedTuple):
    """Where a stream stands: epoch and number of the batch it gives next, and the identity of corpus and settings."""

    epoch: int
    batch: int
    identity: int


class Share(NamedTuple):
    """What one of several processes learns from in one step."""

    batches: tuple[Batch, ...]
    target_tokens: int  # real target positions, end of sentence counted, of all processes' batches
    position: Position  # after the step


class BatchStream:
    """Endless batches of a corpus, epoch after epoch.

    The batches of an epoch, their order and the variant of each pair are a function of (seed, epoch) alone, so a stream
    restored to a position goes on exactly as the first would have.
    """

    def __init__(self, corpus: Corpus, batch_tokens: int, seed: int, *, pad: int, bos: int, eos: int) -> None:
        """``batch_tokens`` bounds pairs x the longer of the two padded lengths; one pair alone may be longer."""
        self._corpus, self._batch_tokens, self._seed = corpus, batch_tokens, seed
        self._collator = _Collator(corpus, pad, bos, eos)
        self._identity = _identity(corpus, batch_tokens, seed)
        self._epoch, self._batch = 0, 0
        self._plan: tuple[int, Plan] | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        return self._collator(self._advance())

    def share(self, accumulate: int, rank: int = 0, size: int = 1) -> Share:
        """Goes on by ``accumulate * size`` batches, and gives every ``size``-th of them, beginning with ``rank``.

        The streams of all ranks stay at the same position, at the end of an epoch as well, and what they learn from in
        a step is together what one process with ``accumulate * size`` would.
        """
        rows = [self._advance() for _ in range(accumulate * size)]
        tokens = sum(int(self._corpus.target.lengths(each).sum(dtype=np.int64)) + len(each) for each in rows)
        return Share(tuple(self._collator(each) for each in rows[rank::size]), tokens, self.state())

    def _advance(self) -> IndexArray:
        """The rows of the next batch, which the stream leaves behind."""
        plan = self._current_plan()
        while len(plan) == 0:  # an epoch of small weights can be empty
            self._epoch += 1
            plan = self._current_plan()
        rows = plan[self._batch]
        self._batch += 1
        if self._batch == len(plan):
            self._epoch, self._batch = self._epoch + 1, 0
        return rows

    @property
    def epoch(self) -> int:
        """Epochs given in full; the number of the one that the next batch belongs to."""
        return self._epoch

    @property
    def batches_per_epoch(self) -> int:
        """Batches of the current epoch; other epochs differ a little."""
        return len(self._current_plan())

    @property
    def padding_share(self) -> float:
        """The share of the current epoch's source and target positions that are padding."""
        return self._current_plan().padding_share

    def state(self) -> Position:
        """The position, to be saved."""
        return Position(self._epoch, self._batch, self._identity)

    def restore(self, position: Position) -> None:
        """Goes to a saved position; ValueError when it is of another corpus, batch size, seed or way of planning."""
        if position.identity != self._identity:
            raise ValueError(
                "the saved data position belongs to another corpus, seed or batch_tokens, or to a Ferry that cut "
                "batches in another way; resume with the recipe, data and version that the run began with"
            )
        self._epoch, self._batch = position.epoch, position.batch

    def _current_plan(self) -> Plan:
        if self._plan is None or self._plan[0] != self._epoch:
            self._plan = (self._epoch, plan_epoch(self._corpus, self._batch_tokens, self._seed, self._epoch))
        return self._plan[1]


def ordered_batches(corpus: Corpus, batch_tokens: int, *, pad: int, bos: int, eos: int) -> Iterator[Batch]:
    """Every pair once in its canonical encoding, shortest first, always in the same batches: for validation."""
    plan = plan_in_order(corpus, batch_tokens)
    collator = _Collator(corpus, pad, bos, eos)
    for index in range(len(plan)):
        yield collator(plan[index])


class _Collator:
    """Turns rows of a corpus's shards into a padded batch."""

    def __init__(self, corpus: Corpus, pad: int, bos: int, eos: int) -> None:
        self._corpus, self._pad, self._bos, self._eos = corpus, pad, bos, eos

    def __call__(self, rows: IndexArray) -> Batch:
        source, target = self._corpus.source.gather(rows), self._corpus.target.gather(rows)
        return Batch(
            source=torch.from_numpy(self._ended(source)),
            source_lengths=torch.from_numpy(source.lengths + 1),
            target_input=torch.from_numpy(self._begun(target)),
            target_output=torch.from_numpy(self._ended(target)),
        )

    def _ended(self, sequences: Gathered) -> npt.NDArray[np.int64]:
        ended, is_piece = self._empty(sequences)
        ended[is_piece] = sequences.pieces
        ended[np.arange(len(ended)), sequences.lengths] = self._eos
        return ended

    def _begun(self, sequences: Gathered) -> npt.NDArray[np.int64]:
        begun, is_piece = self._empty(sequences)
        begun[:, 0] = self._bos
        begun[:, 1:][is_piece[:, :-1]] = sequences.pieces
        return begun

    def _empty(self, sequences: Gathered) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        width = padded(int(sequences.lengths.max()) + 1)
        empty = np.full((len(sequences.lengths), width), self._pad, dtype=np.int64)  # (B, width)
        return empty, np.arange(width) < sequences.lengths[:, None]


def _identity(corpus: Corpus, batch_tokens: int, seed: int) -> int:
    digest = hashlib.sha256(f"{corpus.identity} {batch_tokens} {seed} {PLANNING}".encode()).digest()
    return int.from_bytes(digest[:7], "big")  # 56 bits also fit a signed integer in a tensor or a file
