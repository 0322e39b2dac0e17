"""Which target piece a source piece becomes, and how likely: IBM model 1, learned by expectation maximisation.

Brown et al. 1993, section 4.1: a target piece t of a pair comes from one of its l source pieces s or from NULL, each
equally likely a priori. Expectation and maximisation over all pairs::

    share(s | t, pair) = p(t | s) / (p(t | NULL) + sum_s' p(t | s'))        (equations 15 and 17)
    p(t | s) = sum of share(s | t, pair) over all pairs / the same, summed over all t        (equation 14)

beginning with equal p. Only pieces that stand in one pair have an entry.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from training.corpus import Corpus
from training.links import Floats, Links, chunks, sums
from training.shards import IndexArray

ITERATIONS = 5
SMALLEST = 1e-5  # less likely translations are forgotten after each iteration
MOST_ENTRIES = 10_000_000  # beyond them those seen least are forgotten while the first iteration counts
MOST_PAIRS = 500_000  # learned from; of more pairs these, evenly spread


class LexicalTable(NamedTuple):
    """p(target piece | source piece), sparse: N entries in order of source piece, then target piece."""

    source: IndexArray  # (N,) int64
    target: IndexArray  # (N,) int64
    probability: Floats  # (N,)
    null: Floats  # (target vocabulary,), p(target piece | NULL)


def learn_lexical_table(
    corpus: Corpus,
    source_vocabulary: int,
    target_vocabulary: int,
    *,
    iterations: int = ITERATIONS,
    smallest: float = SMALLEST,
    most_entries: int = MOST_ENTRIES,
    most_pairs: int = MOST_PAIRS,
) -> LexicalTable:
    """The table of ``corpus``, the same each time.

    Memory is bounded by ``most_entries`` (some 60 bytes each at the peak) and by the links of a chunk, time by
    ``most_pairs``; the corpus stays on disk. Rows may sum to less than 1 by what was forgotten of them.
    """
    count = min(len(corpus), most_pairs)
    text = _Text(corpus, np.arange(count) * len(corpus) // count, source_vocabulary, target_vocabulary)
    model = _maximised(_first_expectation(text, most_entries), text, smallest)
    for _ in range(iterations - 1):
        model = _maximised(_expectation(model, text), text, smallest)
    return LexicalTable(model.keys // target_vocabulary, model.keys % target_vocabulary, model.values, model.null)


class _Text(NamedTuple):
    """What is learned from."""

    corpus: Corpus
    pairs: IndexArray
    source_vocabulary: int
    target_vocabulary: int

    def chunks(self) -> Iterator[Links]:
        return chunks(self.corpus, self.pairs, self.target_vocabulary)


class _Entries(NamedTuple):
    """Expected counts, or the probabilities made of them."""

    keys: IndexArray  # (N,) int64, ascending
    values: Floats  # (N,)
    null: Floats  # (target vocabulary,)


def _first_expectation(text: _Text, most_entries: int) -> _Entries:
    """With equal probabilities a target piece's share is the same for each piece of its source and for NULL."""
    null = np.zeros(text.target_vocabulary)
    keys, values = np.empty(0, np.int64), np.empty(0)
    waiting: list[tuple[IndexArray, Floats]] = []
    for links in text.chunks():
        share = 1 / (links.sources + 1.0)
        null += sums(links.words, share, text.target_vocabulary)
        waiting.append((links.keys, links.by_key(share[links.word])))
        if sum(len(some) for some, _ in waiting) > max(len(keys), 1 << 20):  # so that merging stays a small part
            keys, values = _merged([(keys, values), *waiting], most_entries)
            waiting.clear()
    return _Entries(*_merged([(keys, values), *waiting], most_entries), null)


def _expectation(model: _Entries, text: _Text) -> _Entries:
    """Counts of the entries of ``model``, shared out by its probabilities."""
    values, null = np.zeros(len(model.keys)), np.zeros(text.target_vocabulary)
    for links in text.chunks():
        places = np.searchsorted(model.keys, links.keys).clip(max=len(model.keys) - 1)  # (K,)
        known = model.keys[places] == links.keys
        weights = np.where(known, model.values[places], 0.0)[links.key]  # (N,)
        from_null = model.null[links.words]  # (T,)
        total = links.by_word(weights) + from_null
        weights /= total[links.word]
        values[places[known]] += links.by_key(weights)[known]
        null += sums(links.words, from_null / total, text.target_vocabulary)
    return _Entries(model.keys, values, null)


def _maximised(counts: _Entries, text: _Text, smallest: float) -> _Entries:
    """Probabilities from counts, without the smallest. Those of NULL all stay: they explain what nothing else does."""
    source = counts.keys // text.target_vocabulary
    totals = sums(source, counts.values, text.source_vocabulary)
    values = counts.values / totals[source]
    kept = values >= smallest
    return _Entries(counts.keys[kept], values[kept], counts.null / counts.null.sum())


def _merged(parts: list[tuple[IndexArray, Floats]], most: int) -> tuple[IndexArray, Floats]:
    """Sums of the parts' counts by key; of more than ``most`` keys those with the highest counts."""
    keys, place = np.unique(np.concatenate([keys for keys, _ in parts]), return_inverse=True)
    values = sums(place, np.concatenate([values for _, values in parts]), len(keys))
    if len(keys) > most:
        kept = np.sort(np.argsort(-values, kind="stable")[:most])
        keys, values = keys[kept], values[kept]
    return keys, values
