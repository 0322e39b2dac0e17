"""Which pairs make up which batch of an epoch: decided from lengths alone, without reading a piece.

An epoch never stands in memory. Blocks of neighbouring pairs are shuffled and dealt out to windows; inside a window
the pairs are shuffled, sorted by length and cut where the token budget is full, and the batches shuffled. A window is
a function of (corpus, batch_tokens, seed, epoch, window), so it is made when its batches are asked for, and forgotten.
A corpus of one window is shuffled as a whole.

Memory: 8 bytes for each block of 256 pairs (56 while they are shuffled), 84 for each pair of the window being planned,
and 8 for each pair of the two windows held: some 26 MB and 0.03 bytes a pair of the corpus.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from training.corpus import Corpus
from training.shards import IndexArray

PLANNING = 2  # to be raised with whatever puts other pairs into a batch: a run can then not go on in the wrong place

_BLOCK_PAIRS = 256  # neighbours on disk that stay in one window: a few kilobytes to read at a time
_WINDOW_PAIRS = 1 << 18  # pairs sorted together: enough for little padding, and a thousand blocks mix a large corpus
_WINDOWS_HELD = 2
_LENGTH_NOISE = 0.02  # by this share target lengths are blurred for sorting, so that long pairs get new neighbours
_LENGTH_BITS, _PLACE_BITS = 20, 22  # of a sorting key

# Kernels are made anew for each shape, and some are slow for shapes without divisors: so there are to be few.
_PAIRS_STEP = 8  # a batch of more has a multiple of it
_LENGTH_STEP = 2  # both sides of a batch are padded to a multiple of it


Lengths = TypeVar("Lengths", int, IndexArray)


def padded(longest: Lengths) -> Lengths:
    """Positions of a side of a batch whose longest sequence, its mark included, has ``longest``; or of several."""
    return -(-longest // _LENGTH_STEP) * _LENGTH_STEP


class Window(NamedTuple):
    """Some consecutive batches of an epoch: batch b is ``rows[starts[b]:ends[b]]``, rows of the corpus's shards."""

    rows: IndexArray  # (M,)
    starts: IndexArray  # (batches,)
    ends: IndexArray  # (batches,)
    filled: int  # source and target positions that hold a piece or a mark
    positions: int  # source and target positions, padding included


class Plan:
    """The batches of one epoch, planned window by window as they are asked for.

    ``plan[index]`` plans the windows up to that of ``index``, ``len(plan)`` and ``padding_share`` plan all of them
    once, at some 4 million pairs a second, and remember only how many batches each has.
    """

    def __init__(self, windows: int, make_window: Callable[[int], Window]) -> None:
        self._windows, self._make_window = windows, make_window
        self._ends = np.zeros(0, dtype=np.int64)  # batches up to the end of each window counted so far
        self._filled = self._positions = 0
        self._held: OrderedDict[int, Window] = OrderedDict()

    def __len__(self) -> int:
        self._count_while(lambda batches: True)
        return self._batches()

    def __getitem__(self, batch: int) -> IndexArray:
        """The rows of a batch, (B,). Raises IndexError behind the last."""
        self._count_while(lambda batches: batches <= batch)
        if not 0 <= batch < self._batches():
            raise IndexError(f"batch {batch} of a plan of {self._batches()} batches")
        number = int(np.searchsorted(self._ends, batch, side="right"))
        window = self._window(number)
        place = batch - int(self._ends[number]) + len(window.starts)
        return window.rows[window.starts[place] : window.ends[place]]

    @property
    def padding_share(self) -> float:
        """The share of the epoch's source and target positions that are padding."""
        self._count_while(lambda batches: True)
        return 1 - self._filled / self._positions if self._positions else 0.0

    def _batches(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def _count_while(self, wanted: Callable[[int], bool]) -> None:
        while len(self._ends) < self._windows and wanted(self._batches()):
            window = self._window(len(self._ends))
            self._ends = np.append(self._ends, self._batches() + len(window.starts))
            self._filled += window.filled
            self._positions += window.positions

    def _window(self, number: int) -> Window:
        if number not in self._held:
            self._held[number] = self._make_window(number)
            if len(self._held) > _WINDOWS_HELD:
                self._held.popitem(last=False)
        self._held.move_to_end(number)
        return self._held[number]


def plan_epoch(corpus: Corpus, batch_tokens: int, seed: int, epoch: int) -> Plan:
    """The plan of one epoch, a function of its arguments alone.

    A pair of weight w is drawn floor(w) times and once more with probability w - floor(w), each time in a variant drawn
    anew. A batch has pairs x :func:`padded` longest side of at most ``batch_tokens``, or is one pair; the number of
    pairs is a multiple of 8 where it is more.
    """
    blocks = _Blocks(corpus, np.random.default_rng([seed, epoch]))

    def window(number: int) -> Window:
        # One is added because numpy's seeds [1, 2] and [1, 2, 0] are the same.
        generator = np.random.default_rng([seed, epoch, number + 1])
        pairs = blocks.draw(number, generator)
        rows = corpus.rows(pairs, generator.integers(corpus.variants, size=len(pairs)))
        source, target = _padded_lengths(corpus, rows)
        shuffle = generator.permutation(len(rows))
        rows, source, target = rows[shuffle], source[shuffle], target[shuffle]
        noise = generator.uniform(1 - _LENGTH_NOISE, 1 + _LENGTH_NOISE, size=len(rows))
        order = _similar_together(source, np.rint(target * noise).astype(np.int64))
        cut = _cut(rows[order], source[order], target[order], batch_tokens)
        shuffle = generator.permutation(len(cut.starts))
        return cut._replace(starts=cut.starts[shuffle], ends=cut.ends[shuffle])

    return Plan(blocks.windows, window)


def plan_in_order(corpus: Corpus, batch_tokens: int) -> Plan:
    """Every pair once in its canonical encoding, shortest first, whatever its weight: one window, for a small corpus.

    Needs some 80 bytes a pair.
    """
    rows = corpus.rows(np.arange(len(corpus)))
    source, target = _padded_lengths(corpus, rows)
    order = np.lexsort((_snake(source, target), target))
    return Plan(1, lambda _: _cut(rows[order], source[order], target[order], batch_tokens))


class _Blocks:
    """The blocks of an epoch in random order, cut into windows of about equally many pairs.

    A corpus of weight 2.5 gives each of its blocks three times: twice whole, once with half of its pairs.
    """

    def __init__(self, corpus: Corpus, generator: np.random.Generator) -> None:
        passes = [
            (part.first, part.pairs, share)
            for part in corpus.parts
            for share in [1.0] * int(part.weight) + [part.weight % 1] * (part.weight % 1 > 0)
            if part.pairs
        ]
        self._first, self._pairs = (np.array([entry[i] for entry in passes], dtype=np.int64) for i in (0, 1))
        self._share = np.array([share for _, _, share in passes])
        self._ends = np.cumsum(-(-self._pairs // _BLOCK_PAIRS))
        self._order = generator.permutation(int(self._ends[-1]))
        expected = np.cumsum(self._expected_pairs())
        self.windows = max(1, round(float(np.ceil(expected[-1] / _WINDOW_PAIRS))))
        edges = expected[-1] / self.windows * np.arange(1, self.windows)
        self._starts = np.concatenate([[0], np.searchsorted(expected, edges), [len(expected)]])

    def draw(self, window: int, generator: np.random.Generator) -> IndexArray:
        """The pairs of a window in the order of its blocks, (M,); those of weights with a fraction drawn anew."""
        first, size, share = self._spans(self._order[self._starts[window] : self._starts[window + 1]])
        ends = np.cumsum(size)
        pairs = np.repeat(first - (ends - size), size) + np.arange(ends[-1] if len(ends) else 0)
        if (share == 1).all():
            return pairs
        return pairs[generator.random(len(pairs)) < np.repeat(share, size)]

    def _expected_pairs(self) -> npt.NDArray[np.float64]:
        _, size, share = self._spans(self._order)
        return size * share

    def _spans(self, blocks: IndexArray) -> tuple[IndexArray, IndexArray, npt.NDArray[np.float64]]:
        """First pair, number of pairs, and share of them to be drawn, of each block, (N,)."""
        passes = np.searchsorted(self._ends, blocks, side="right")
        blocks_before = self._ends[passes] - -(-self._pairs[passes] // _BLOCK_PAIRS)
        offset = (blocks - blocks_before) * _BLOCK_PAIRS
        return (
            self._first[passes] + offset,
            np.minimum(_BLOCK_PAIRS, self._pairs[passes] - offset),
            self._share[passes],
        )


def _padded_lengths(corpus: Corpus, rows: IndexArray) -> tuple[IndexArray, IndexArray]:
    """Source and target lengths of the rows, each (N,) int64, with one place for end (or begin) of sentence."""
    source, target = corpus.source.lengths(rows), corpus.target.lengths(rows)
    return source.astype(np.int64) + 1, target.astype(np.int64) + 1


def _similar_together(source: IndexArray, target: IndexArray) -> IndexArray:
    """The order by target, then source length, then place, (N,): one sort of one number each, equal on all machines."""
    longest = (1 << _LENGTH_BITS) - 1
    snake = _snake(source, target).clip(-longest, longest) + longest
    key = target.clip(0, longest) << (_LENGTH_BITS + 1) | snake
    places = np.sort(key << _PLACE_BITS | np.arange(len(key)))
    return places & ((1 << _PLACE_BITS) - 1)


def _snake(source: IndexArray, target: IndexArray) -> IndexArray:
    # Sources rise and fall in turn from one target length to the next, so that neighbours never differ by much.
    return np.where(target % 2 == 0, source, -source)


def _cut(rows: IndexArray, source: IndexArray, target: IndexArray, batch_tokens: int) -> Window:
    """Cuts sorted rows into batches, each as long as the budget allows."""
    filled = int(source.sum() + target.sum())
    source, target = padded(source), padded(target)
    starts = np.fromiter(_starts(np.maximum(source, target), batch_tokens), dtype=np.int64)
    if len(starts) == 0:
        return Window(rows, starts, starts, 0, 0)
    ends = np.append(starts[1:], len(rows))
    width = np.maximum.reduceat(source, starts) + np.maximum.reduceat(target, starts)
    positions = int(((ends - starts) * width).sum())
    return Window(rows, starts, ends, filled, positions)


def _starts(longest: IndexArray, batch_tokens: int) -> Iterator[int]:
    start = 0
    while start < len(longest):
        yield start
        # No more than budget / first length can fit, so each pair is looked at about once.
        most = max(1, batch_tokens // int(longest[start]))
        window = longest[start : start + most]
        cost = np.maximum.accumulate(window) * np.arange(1, len(window) + 1)
        count = max(1, int(np.searchsorted(cost, batch_tokens, side="right")))
        start += count - count % _PAIRS_STEP if count > _PAIRS_STEP else count
