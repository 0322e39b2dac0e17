"""Cleaned text to piece ids in shards: each pair's canonical encoding, and the sampled ones beside it.

What needs one chunk alone (cleaning, encoding, sampling) is done in worker processes; what needs the order of all
(duplicates, the tally, writing) is done here, as the chunks come back in order. Only processes share the work:
SentencePiece is left at one thread in each.
"""

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import chain, compress
from typing import NamedTuple, TypeAlias

import numpy as np

from tokenizer.subword import Subword, TokenizerPair, seed_sampling
from training.augmentation import Augmentation
from training.cleaning import (
    DUPLICATE,
    FAULTS,
    HELD_OUT,
    KEPT,
    CleaningReport,
    FaultArray,
    Tally,
    length_fault,
    normalized,
    text_fault,
)
from training.corpus_config import CleaningConfig, CorpusConfig, SamplingConfig
from training.hashes import HashArray, HashSet, hash_pairs
from training.reading import Chunk, Pair, read_chunks
from training.shards import Gathered, IndexArray, ShardWriter, piece_dtype
from training.workers import in_order

Encoded: TypeAlias = tuple[list[int], list[int]]  # source and target pieces of a pair


class EncodedChunk(NamedTuple):
    """A chunk of N pairs, of which P pass the checks of text, and M of these the checks of length too."""

    faults: FaultArray  # (N,)
    passing: IndexArray  # (P,) which pass the checks of text
    hashes: HashArray  # (P,)
    source: Gathered  # M x variants sequences
    target: Gathered  # M x variants sequences


class ChunkEncoder:
    """Cleans and encodes a chunk: a function of the chunk, its number and what stands here. Can be pickled."""

    def __init__(
        self,
        tokenizers: TokenizerPair,
        cleaning: CleaningConfig,
        sampling: SamplingConfig,
        augmentation: Augmentation,
        seed: int,
    ) -> None:
        self._tokenizers, self._cleaning, self._sampling = tokenizers, cleaning, sampling
        self._augmentation, self._seed = augmentation, seed

    def __reduce__(self) -> tuple[Callable[..., "ChunkEncoder"], tuple[object, ...]]:
        models = tuple(self._tokenizers.files().values())
        return _chunk_encoder, (models, self._cleaning, self._sampling, self._augmentation, self._seed)

    def __call__(self, chunk: Chunk) -> EncodedChunk:
        """Raises CorpusError for lines that are not UTF-8 or no TSV."""
        pairs = list(map(normalized, chunk.pairs()))
        faults = np.array([FAULTS.index(text_fault(pair, self._cleaning)) for pair in pairs], dtype=np.uint8)
        passing = np.flatnonzero(faults == KEPT)
        clean = [pairs[place] for place in passing]
        sources = self._tokenizers.source.encode_batch([pair.source for pair in clean])
        targets = self._tokenizers.target.encode_batch([pair.target for pair in clean])
        faults[passing] = [
            FAULTS.index(length_fault(len(source), len(target), self._cleaning))
            for source, target in zip(sources, targets, strict=True)
        ]
        fits = (faults[passing] == KEPT).tolist()
        canonical = list(compress(zip(sources, targets, strict=True), fits))
        rounds = [canonical, *self._sampled(list(compress(clean, fits)), canonical, chunk.number)]
        return EncodedChunk(
            faults,
            passing,
            hash_pairs([pair[:2] for pair in clean]),
            _gathered(rounds, 0, self._tokenizers.source),
            _gathered(rounds, 1, self._tokenizers.target),
        )

    def _sampled(self, pairs: list[Pair], canonical: list[Encoded], number: int) -> Iterator[list[Encoded]]:
        """Of each pair one sampled encoding after the other, for some of which its text is altered.

        A sample that is too long is not used: the canonical encoding stands in its place, of an altered pair on both
        sides, since one alone would be no translation of the other.
        """
        altered = self._altered(pairs, number)
        texts = [[new or pair for new, pair in zip(round_, pairs, strict=True)] for round_ in altered]
        _seed_chunk(self._seed, number)
        alpha = self._sampling.alpha
        sources = [self._tokenizers.source.sample_batch([pair.source for pair in some], alpha) for some in texts]
        targets = [self._tokenizers.target.sample_batch([pair.target for pair in some], alpha) for some in texts]
        for news, *sides in zip(altered, sources, targets, strict=True):
            chosen = []
            for new, whole, sample in zip(news, canonical, zip(*sides, strict=True), strict=True):
                fits = [0 < len(side) <= self._cleaning.max_pieces for side in sample]
                if new is not None:
                    fits = [all(fits)] * 2
                source, target = (side if fit else safe for side, safe, fit in zip(sample, whole, fits, strict=True))
                chosen.append((source, target))
            yield chosen

    def _altered(self, pairs: list[Pair], number: int) -> list[list[Pair | None]]:
        rounds = self._sampling.variants - 1
        if not self._augmentation.config.active:
            return [[None] * len(pairs)] * rounds
        draw = random.Random(f"{self._seed} {number}")
        return [self._augmentation.alter(pairs, draw) for _ in range(rounds)]


def encode(
    corpora: Sequence[CorpusConfig],
    encoder: ChunkEncoder,
    source: ShardWriter,
    target: ShardWriter,
    *,
    held_out: HashArray,
    seen: HashSet | None,
    workers: int,
    progress: Callable[[int], None] | None,
) -> CleaningReport:
    """Appends each kept pair's variants, canonical first, to both shards; the same whatever the number of workers.

    Pairs whose hashes are in ``held_out`` are dropped; those that are in ``seen`` are dropped as duplicates, and the
    others added to it. ``progress`` is called with the number of pairs written so far. Raises CorpusError for unusable
    text and WorkerError where a worker was killed.
    """
    tallies = [Tally(corpus.label) for corpus in corpora]
    with closing(in_order(encoder, read_chunks(corpora), workers)) as results:
        for chunk, encoded in results:
            faults = encoded.faults.copy()
            if seen is not None:
                faults[encoded.passing[~seen.add(encoded.hashes)]] = DUPLICATE
            faults[encoded.passing[np.isin(encoded.hashes, held_out)]] = HELD_OUT
            tallies[chunk.corpus].add(faults, partial(_pair, chunk))
            fitting = encoded.faults == KEPT
            if not fitting.any():
                continue
            kept = faults[fitting] == KEPT
            variants = len(encoded.source.lengths) // len(kept)
            chosen = np.repeat(kept, variants)
            source.append(encoded.source.where(chosen))
            target.append(encoded.target.where(chosen))
            if progress is not None:
                progress(sum(tally.kept for tally in tallies))
    return CleaningReport(corpora=tuple(tally.report() for tally in tallies))


def _gathered(rounds: Sequence[Sequence[Encoded]], side: int, subword: Subword) -> Gathered:
    """One side of all encodings, those of a pair beside each other."""
    encodings = [encoded[side] for variants in zip(*rounds, strict=True) for encoded in variants]
    return Gathered(
        np.fromiter(chain.from_iterable(encodings), dtype=piece_dtype(subword.vocabulary_size)),
        np.fromiter(map(len, encodings), dtype=np.int64),
    )


def _chunk_encoder(
    models: tuple[bytes, ...],
    cleaning: CleaningConfig,
    sampling: SamplingConfig,
    augmentation: Augmentation,
    seed: int,
) -> ChunkEncoder:
    subwords = [Subword.from_bytes(model) for model in models]
    return ChunkEncoder(TokenizerPair(subwords[0], subwords[-1]), cleaning, sampling, augmentation, seed)


def _pair(chunk: Chunk, place: int) -> Pair:
    return normalized(chunk.pairs()[place])


def _seed_chunk(seed: int, number: int) -> None:
    # A chunk's samples must not depend on which process drew what before.
    seed_sampling(int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()))
