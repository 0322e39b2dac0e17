"""Pairs held out for dev or test that stand in the training text: found, or known by their hashes and left out."""

from collections.abc import Sequence
from contextlib import closing
from itertools import compress
from typing import NamedTuple

import numpy as np

from tokenizer.normalize import normalize
from training.corpus_config import CorpusConfig
from training.hashes import HashArray, hash_pairs
from training.reading import Chunk, CorpusError, Pair, read_chunks, read_pairs
from training.workers import in_order

_EXAMPLES = 3


class OverlapError(CorpusError):
    """Held-out pairs stand in the training text, so scores on them would be too good."""


class Overlap(NamedTuple):
    """One held-out pair found in the training text."""

    held_out: str  # corpus and line
    training: str  # corpus and line
    source: str
    target: str


def check_overlap(training: Sequence[CorpusConfig], held_out: Sequence[CorpusConfig], workers: int = 1) -> None:
    """Raises OverlapError when a normalised (source, target) of ``held_out`` equals one of ``training``.

    Holds the held-out pairs in memory and streams the training text. Raises CorpusError for unreadable files, and
    WorkerError where a worker was killed.
    """
    overlaps = find_overlaps(training, held_out, workers)
    if not overlaps:
        return
    examples = "; ".join(
        f"{overlap.held_out} is {overlap.training}: {overlap.source!r} = {overlap.target!r}"
        for overlap in overlaps[:_EXAMPLES]
    )
    raise OverlapError(
        f"{len(overlaps)} dev or test pairs stand in the training text, so scores on them would be too good; "
        f"leave them out with data.drop_overlap, or learn from them, if that is meant, with data.allow_overlap. "
        f"The first: {examples}"
    )


def held_out_hashes(held_out: Sequence[CorpusConfig]) -> HashArray:
    """The hashes, in order, of the normalised pairs of ``held_out`` that have both sides. Raises CorpusError."""
    keys = (_key(pair) for corpus in held_out for pair in read_pairs(corpus))
    return np.unique(hash_pairs([key for key in keys if all(key)]))


def find_overlaps(
    training: Sequence[CorpusConfig], held_out: Sequence[CorpusConfig], workers: int = 1
) -> list[Overlap]:
    """The held-out pairs that stand in the training text, each once, in the order of the training text."""
    places: dict[tuple[str, str], str] = {}
    for corpus in held_out:
        for pair in read_pairs(corpus):
            places.setdefault(_key(pair), f"{corpus.label}:{pair.line}")
    overlaps: dict[tuple[str, str], Overlap] = {}
    with closing(in_order(_PairFinder(hash_pairs(list(places))), read_chunks(training), workers)) as results:
        for chunk, found in results:
            for pair in found:
                key = _key(pair)
                if key in places and key not in overlaps and all(key):
                    overlaps[key] = Overlap(places[key], f"{training[chunk.corpus].label}:{pair.line}", *key)
    return list(overlaps.values())


class _PairFinder:
    """The pairs of a chunk that have one of some hashes; what a worker does."""

    def __init__(self, hashes: HashArray) -> None:
        self._hashes = np.sort(hashes)

    def __call__(self, chunk: Chunk) -> list[Pair]:
        pairs = chunk.pairs()
        found = np.isin(hash_pairs([_key(pair) for pair in pairs]), self._hashes)
        return list(compress(pairs, found))


def _key(pair: Pair) -> tuple[str, str]:
    return normalize(pair.source), normalize(pair.target)
