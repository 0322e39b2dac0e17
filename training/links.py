"""All links between the source and the target pieces of parallel text, in chunks of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from training.corpus import Corpus
from training.shards import IndexArray, PieceArray

LINKS = 1 << 20  # a chunk has, or as many as its last pair adds
_PAIRS_AT_ONCE = 8192

Floats = npt.NDArray[np.float64]


class Links(NamedTuple):
    """The links of some pairs: every target piece with every source piece of its pair.

    A chunk has N links between K different pairs of pieces, and T target pieces. A pair of pieces is known by its key,
    ``source * target_vocabulary + target``.
    """

    keys: IndexArray  # (K,) int64, ascending
    key: IndexArray  # (N,) int64, of each link, where its key stands in keys
    word: IndexArray  # (N,) int64, of each link, which of the chunk's target pieces it belongs to
    words: PieceArray  # (T,) the target pieces of the chunk
    sources: IndexArray  # (T,) int64, source pieces in the pair of each target piece

    def by_key(self, weights: Floats) -> Floats:
        """Sums of ``weights`` (N,) over the links of each key, (K,)."""
        return sums(self.key, weights, len(self.keys))

    def by_word(self, weights: Floats) -> Floats:
        """Sums of ``weights`` (N,) over the links of each target piece, (T,)."""
        return sums(self.word, weights, len(self.words))


def chunks(corpus: Corpus, pairs: IndexArray, target_vocabulary: int) -> Iterator[Links]:
    """The links of the canonical encodings of ``pairs`` (P,), in order; memory does not grow with their number."""
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        rows = corpus.rows(pairs[start : start + _PAIRS_AT_ONCE])
        links = corpus.source.lengths(rows).astype(np.int64) * corpus.target.lengths(rows)
        before = np.cumsum(links) - links
        ends = np.flatnonzero(np.diff(before // LINKS)) + 1
        for part in np.split(rows, ends):
            yield _link(corpus, part, target_vocabulary)


def sums(places: IndexArray | PieceArray, weights: Floats, size: int) -> Floats:
    """Sums of ``weights`` (N,) by their ``places`` (N,), (size,)."""
    return np.bincount(places, weights, size).astype(np.float64, copy=False)


def _link(corpus: Corpus, rows: IndexArray, target_vocabulary: int) -> Links:
    source, target = corpus.source.gather(rows), corpus.target.gather(rows)
    starts = np.cumsum(source.lengths) - source.lengths
    sources = np.repeat(source.lengths, target.lengths)  # (T,)
    first = np.repeat(starts, target.lengths)  # (T,), the first source piece of each target piece's pair
    word = np.repeat(np.arange(len(sources)), sources)  # (N,)
    place = np.arange(len(word)) - np.repeat(np.cumsum(sources) - sources - first, sources)  # (N,)
    pair = source.pieces[place].astype(np.int64) * target_vocabulary + target.pieces[word]
    keys, key = np.unique(pair, return_inverse=True)
    return Links(keys, key, word, target.pieces, sources)
