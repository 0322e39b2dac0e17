"""Which pairs make up which batch of an epoch: decided from lengths alone, without reading a piece.

Pairs are shuffled, sorted by length inside large pools, and cut where the token budget is full; then the batches are
shuffled.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.corpus import Corpus
from training.shards import IndexArray

_POOL_PAIRS = 1 << 18  # pairs sorted together: enough for little padding, few enough to mix a large corpus
_LENGTH_NOISE = 0.02  # by this share target lengths are blurred for sorting, so that long pairs get new neighbours


@dataclass(frozen=True)
class Plan:
    """The batches of one epoch: batch b is ``rows[starts[b]:ends[b]]``, rows of the corpus's shards."""

    rows: IndexArray  # (M,)
    starts: IndexArray  # (batches,)
    ends: IndexArray  # (batches,)
    padding_share: float  # of all source and target positions

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, batch: int) -> IndexArray:
        return self.rows[self.starts[batch] : self.ends[batch]]


def plan_epoch(corpus: Corpus, batch_tokens: int, seed: int, epoch: int) -> Plan:
    """The plan of one epoch, a function of its arguments alone.

    A pair of weight w is drawn floor(w) times and once more with probability w - floor(w), each time in a variant drawn
    anew. A batch has pairs x longest side, end of sentence counted, of at most ``batch_tokens``, or is one pair.
    """
    generator = np.random.default_rng([seed, epoch])
    pairs = generator.permutation(_draw(corpus.weights, generator))
    rows = corpus.rows(pairs, generator.integers(corpus.variants, size=len(pairs)))
    source, target = _padded_lengths(corpus, rows)
    pools = -(-len(rows) // _POOL_PAIRS)
    pool = np.arange(len(rows)) * pools // max(len(rows), 1)
    noise = generator.uniform(1 - _LENGTH_NOISE, 1 + _LENGTH_NOISE, size=len(rows))
    order = _similar_together(pool, source, np.rint(target * noise).astype(np.int64))
    plan = _cut(rows[order], source[order], target[order], pool[order], batch_tokens)
    shuffled = generator.permutation(len(plan))
    return Plan(plan.rows, plan.starts[shuffled], plan.ends[shuffled], plan.padding_share)


def plan_in_order(corpus: Corpus, batch_tokens: int) -> Plan:
    """Every pair once in its canonical encoding, shortest first, whatever its weight."""
    rows = corpus.rows(np.arange(len(corpus)))
    source, target = _padded_lengths(corpus, rows)
    pool = np.zeros(len(rows), dtype=np.int64)
    order = _similar_together(pool, source, target)
    return _cut(rows[order], source[order], target[order], pool, batch_tokens)


def _draw(weights: npt.NDArray[np.float64], generator: np.random.Generator) -> IndexArray:
    whole = np.floor(weights)
    times = whole.astype(np.int64) + (generator.random(len(weights)) < weights - whole)
    return np.repeat(np.arange(len(weights)), times)


def _padded_lengths(corpus: Corpus, rows: IndexArray) -> tuple[IndexArray, IndexArray]:
    """Source and target lengths of the rows, each (N,) int64, with one place for end (or begin) of sentence."""
    source, target = corpus.source.lengths(rows), corpus.target.lengths(rows)
    return source.astype(np.int64) + 1, target.astype(np.int64) + 1


def _similar_together(pool: IndexArray, source: IndexArray, target: IndexArray) -> IndexArray:
    # Sources rise and fall in turn from one target length to the next, so that neighbours never differ by much.
    snake = np.where(target % 2 == 0, source, -source)
    return np.lexsort((snake, target, pool))


def _cut(rows: IndexArray, source: IndexArray, target: IndexArray, pool: IndexArray, batch_tokens: int) -> Plan:
    """Cuts sorted rows into batches, each as long as the budget allows and inside one pool."""
    starts = np.fromiter(_starts(np.maximum(source, target), pool, batch_tokens), dtype=np.int64)
    ends = np.append(starts[1:], len(rows))[: len(starts)]
    if len(starts) == 0:
        return Plan(rows, starts, ends, 0.0)
    width = np.maximum.reduceat(source, starts) + np.maximum.reduceat(target, starts)
    positions = int(((ends - starts) * width).sum())
    return Plan(rows, starts, ends, 1 - int(source.sum() + target.sum()) / positions)


def _starts(longest: IndexArray, pool: IndexArray, batch_tokens: int) -> Iterator[int]:
    pool_ends = np.searchsorted(pool, np.arange(1, pool[-1] + 2)) if len(pool) else pool
    start = 0
    while start < len(longest):
        yield start
        # No more than budget / first length can fit, so each pair is looked at about once.
        most = max(1, batch_tokens // int(longest[start]))
        window = longest[start : min(start + most, int(pool_ends[pool[start]]))]
        cost = np.maximum.accumulate(window) * np.arange(1, len(window) + 1)
        start += max(1, int(np.searchsorted(cost, batch_tokens, side="right")))
