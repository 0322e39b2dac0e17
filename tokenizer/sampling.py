"""Sampled segmentations for training (subword regularisation), from a generator that a seed makes repeatable.

SentencePiece samples too, but its generator cannot be seeded across processes, and starts anew with every batch.
"""

import math
import random
import re
from array import array
from bisect import bisect
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple, Protocol

import sentencepiece

from tokenizer.normalize import SPACE_MARK

STRETCH = 64  # characters; a longer word is sampled in parts, because BPE-dropout takes time quadratic in its length
CACHED_STRETCHES = 1 << 16


class Vocabulary(NamedTuple):
    """What sampling needs to know of a model."""

    ids: dict[str, int]  # ordinary piece -> id
    scores: dict[str, float]  # ordinary piece -> log-probability (unigram) or negated rank of its merge (BPE)
    bytes: tuple[int, ...]  # value of a byte -> id
    user_symbols: tuple[str, ...]

    @property
    def is_bpe(self) -> bool:
        """Whether the scores are the negated ranks 0, -1, -2, … of merges, as SentencePiece stores BPE."""
        return all(score == -rank for rank, score in enumerate(self.scores.values()))

    def spell(self, part: str) -> list[int]:
        """The id of a piece, or those of its bytes."""
        identifier = self.ids.get(part)
        return [self.bytes[byte] for byte in part.encode()] if identifier is None else [identifier]


class StretchSampler(Protocol):
    """Segments a non-empty run of characters without white space."""

    def sample(self, stretch: str, alpha: float, generator: random.Random) -> Sequence[str]: ...

    def best(self, stretch: str) -> Sequence[str]: ...


class Sampler:
    """Samples encodings of normalised text, word by word: no piece of ours crosses a space."""

    def __init__(self, processor: sentencepiece.SentencePieceProcessor) -> None:
        self._processor = processor
        self._vocabulary = read_vocabulary(processor)
        symbols = sorted(self._vocabulary.user_symbols, key=len, reverse=True)
        self._symbol = re.compile("|".join(map(re.escape, symbols)) or r"(?!)")
        self._stretches: StretchSampler = (
            BpeDropout(self._vocabulary) if self._vocabulary.is_bpe else UnigramLattice(self._vocabulary)
        )

    def sample(self, normalized: str, alpha: float, generator: random.Random) -> list[int]:
        """One sampled encoding. A word that holds a user symbol gets its usual encoding."""
        ids: list[int] = []
        for word in normalized.split():
            if self._symbol.search(word):
                ids.extend(self._processor.encode(word))
                continue
            marked = SPACE_MARK + word
            for start in range(0, len(marked), STRETCH):
                for part in self._stretches.sample(marked[start : start + STRETCH], alpha, generator):
                    ids.extend(self._vocabulary.spell(part))
        return ids

    def cover(self, stretch: str) -> list[int]:
        """The ordinary pieces in the model's own segmentation of a non-empty stretch; other characters are left out."""
        known = self._vocabulary.ids
        return [known[part] for part in self._stretches.best(stretch) if part in known]


class UnigramLattice:
    """Draws from all segmentations with probability proportional to p(segmentation)^alpha (Kudo 2018, eq. 4, l = ∞).

    Forward filtering gives each end position its distribution over the last piece; sampling walks it from the end.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._scores = vocabulary.scores
        self._longest = max(map(len, vocabulary.scores))
        self._unknown = min(vocabulary.scores.values()) - 10  # as in SentencePiece; any finite value gives the same
        self._lattice = lru_cache(CACHED_STRETCHES)(self._build)

    def sample(self, stretch: str, alpha: float, generator: random.Random) -> list[str]:
        first, starts, cumulative = self._lattice(stretch, alpha)
        parts: list[str] = []
        end = len(stretch)
        while end > 0:
            low, high = first[end - 1], first[end]
            place = bisect(cumulative, generator.random() * cumulative[high - 1], low, high)
            start = starts[min(place, high - 1)]
            parts.append(stretch[start:end])
            end = start
        return parts[::-1]

    def _build(self, stretch: str, alpha: float) -> "_Lattice":
        forward = [0.0]  # log of the summed weights of all segmentations of stretch[:end]
        lattice = _Lattice(array("H", [0]), array("B"), array("d"))
        for end in range(1, len(stretch) + 1):
            starts = self._starts(stretch, end)
            logs = [forward[start] + alpha * self._score(stretch[start:end]) for start in starts]
            highest = max(logs)
            lattice.starts.extend(starts)
            lattice.cumulative.extend(accumulate(math.exp(log - highest) for log in logs))
            lattice.first.append(len(lattice.starts))
            forward.append(highest + math.log(lattice.cumulative[-1]))
        return lattice

    def best(self, stretch: str) -> list[str]:
        """The most probable segmentation."""
        paths: list[tuple[float, list[str]]] = [(0.0, [])]  # score and parts of the best segmentation of stretch[:end]
        for end in range(1, len(stretch) + 1):
            extended = [(paths[start], stretch[start:end]) for start in self._starts(stretch, end)]
            scored = [(score + self._score(part), [*parts, part]) for (score, parts), part in extended]
            paths.append(max(scored, key=lambda path: path[0]))
        return paths[-1][1]

    def _starts(self, stretch: str, end: int) -> list[int]:
        """Where a part that ends at ``end`` may begin: every piece of the vocabulary, and the single character."""
        possible = range(max(0, end - self._longest), end)
        return [start for start in possible if stretch[start:end] in self._scores or end - start == 1]

    def _score(self, part: str) -> float:
        return self._scores.get(part, self._unknown)


class _Lattice(NamedTuple):
    """The pieces that end at each position, in arrays: many lattices are kept, at less than a kilobyte a word."""

    first: "array[int]"  # of those that end at end + 1, the place in the other two
    starts: "array[int]"
    cumulative: "array[float]"  # weights, summed over the pieces of one end


class BpeDropout:
    """Merges as BPE does, but leaves each possible merge out with probability alpha (Provilkov et al. 2020, alg. 1)."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._ranks = {piece: -score for piece, score in vocabulary.scores.items()}

    def sample(self, stretch: str, alpha: float, generator: random.Random) -> list[str]:
        parts = list(stretch)
        while (place := self._next_merge(parts, alpha, generator)) is not None:
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        return parts

    def best(self, stretch: str) -> list[str]:
        """All merges made."""
        return self.sample(stretch, 0.0, random.Random(0))

    def _next_merge(self, parts: list[str], alpha: float, generator: random.Random) -> int | None:
        """The place of the best merge that is not dropped; only a merge that would win needs its draw."""
        best, lowest = None, math.inf
        for place in range(len(parts) - 1):
            rank = self._ranks.get(parts[place] + parts[place + 1], math.inf)
            if rank < lowest and generator.random() >= alpha:
                best, lowest = place, rank
        return best


def read_vocabulary(processor: sentencepiece.SentencePieceProcessor) -> Vocabulary:
    """The pieces of a model whose ids are, in this order: reserved, user symbols, bytes, ordinary pieces."""
    everything = list(range(processor.get_piece_size()))
    pieces, scores = processor.id_to_piece(everything), processor.get_score(everything)
    bytes_ = tuple(processor.piece_to_id([f"<0x{value:02X}>" for value in range(256)]))
    ordinary = range(max(bytes_) + 1, len(everything))
    symbols = [i for i in range(min(bytes_)) if not (processor.is_control(i) or processor.is_unknown(i))]
    return Vocabulary(
        ids={pieces[i]: i for i in ordinary},
        scores={pieces[i]: scores[i] for i in ordinary},
        bytes=bytes_,
        user_symbols=tuple(pieces[i] for i in symbols),
    )
