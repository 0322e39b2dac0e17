"""Parallel text made ready for training: read, cleaned, encoded once, and kept as memory-mapped shards.

A prepared corpus is a folder named by the fingerprint of all that went into it, so a second run finds and reuses it,
and a changed file or setting gives another. Of N pairs in K variants, row ``pair * K + variant`` of the two shards is
one encoding; variant 0 is the canonical one.
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import ValidationError

from model.config import Frozen
from tokenizer.subword import TokenizerPair
from training.augmentation import NO_AUGMENTATION, Augmentation
from training.cleaning import CleaningReport, nothing_left
from training.corpus_config import CleaningConfig, CorpusConfig, SamplingConfig
from training.encoding import ChunkEncoder, encode
from training.hashes import NO_HASHES, HashArray, HashSet, hash_corpus
from training.publish import published
from training.reading import CorpusError
from training.shards import IndexArray, PieceArray, Shard, ShardWriter, piece_dtype

_FORMAT = 2
_MANIFEST = "manifest.json"
_REPORT = "cleaning.json"
_LENGTHS_AT_ONCE = 1 << 20


class LengthRatio(NamedTuple):
    """Mean and standard deviation of target pieces / source pieces, for the model's length limit."""

    mean: float
    deviation: float


class Part(NamedTuple):
    """The pairs of one corpus of a list: ``pairs`` of them from ``first`` on."""

    first: int
    pairs: int
    weight: float  # how many times each is to be seen an epoch, on average


class _Manifest(Frozen):
    fingerprint: str
    pairs: tuple[int, ...]  # of each corpus, in order
    variants: int
    source_vocabulary: int
    target_vocabulary: int


class Corpus:
    """The encoded pairs of a list of corpora, on disk. Made by ``prepare_corpus``."""

    def __init__(self, folder: Path, weights: Sequence[float]) -> None:
        """Opens a prepared folder; ``weights`` has one entry a corpus. Raises CorpusError when it is damaged."""
        try:
            manifest = _Manifest.model_validate_json((folder / _MANIFEST).read_bytes())
            self.report = CleaningReport.model_validate_json((folder / _REPORT).read_bytes())
        except (OSError, ValidationError) as error:
            raise CorpusError(
                f"{folder}: no prepared corpus, or a damaged one; delete the folder and it will be made again: {error}"
            ) from error
        rows = sum(manifest.pairs) * manifest.variants
        self.folder = folder
        self.fingerprint = manifest.fingerprint
        self.variants = manifest.variants
        self.source = Shard(folder, "source", piece_dtype(manifest.source_vocabulary), rows)
        self.target = Shard(folder, "target", piece_dtype(manifest.target_vocabulary), rows)
        self._corpus_pairs, self._corpus_weights = manifest.pairs, tuple(weights)

    def __len__(self) -> int:
        return sum(self._corpus_pairs)

    @property
    def identity(self) -> str:
        """Equal for corpora of equal encodings and equal weights."""
        return f"{self.fingerprint} {self._corpus_weights}"

    @property
    def parts(self) -> tuple[Part, ...]:
        """Where the pairs of each corpus of the list stand, and their weight."""
        firsts = accumulate(self._corpus_pairs, initial=0)
        return tuple(map(Part, firsts, self._corpus_pairs, self._corpus_weights))

    def rows(self, pairs: IndexArray, variants: IndexArray | int = 0) -> IndexArray:
        """The rows of the shards that hold ``variants`` of ``pairs``, (N,)."""
        return pairs * self.variants + variants

    def pair(self, index: int, variant: int = 0) -> tuple[PieceArray, PieceArray]:
        """Source and target pieces of one pair, without begin and end of sentence."""
        row = range(len(self))[index] * self.variants + range(self.variants)[variant]
        return self.source[row], self.target[row]

    def length_ratio(self) -> LengthRatio:
        """Statistics of target pieces / source pieces over the canonical encodings; reads 16 bytes a row, no piece."""
        total = squares = 0.0
        for start in range(0, len(self), _LENGTHS_AT_ONCE):
            rows = slice(start * self.variants, (start + _LENGTHS_AT_ONCE) * self.variants, self.variants)
            ratios = self.target.lengths(rows) / self.source.lengths(rows)
            total, squares = total + float(ratios.sum()), squares + float(np.square(ratios).sum())
        mean = total / len(self)
        return LengthRatio(mean, math.sqrt(max(0.0, squares / len(self) - mean**2)))


def prepare_corpus(
    corpora: Sequence[CorpusConfig],
    tokenizers: TokenizerPair,
    cleaning: CleaningConfig,
    sampling: SamplingConfig,
    folder: Path,
    *,
    augmentation: Augmentation = NO_AUGMENTATION,
    held_out: HashArray = NO_HASHES,
    seed: int = 0,
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Corpus:
    """Reads, cleans and encodes ``corpora`` into a new folder below ``folder``, or opens the one of an earlier run.

    Pairs with the hashes ``held_out`` are left out. ``seed`` is that of the sampled variants, of which ``augmentation``
    alters the text of some; ``workers`` is the number
    of processes, which changes nothing in the result; ``progress`` is called with the number of pairs written so far.
    The folder appears by a rename when it is whole. Raises CorpusError for unusable text, a full disk, or when nothing
    is left; WorkerError where a worker was killed.
    """
    if not corpora:
        raise CorpusError("the recipe names no corpus; give at least one with 'source' and 'target', or 'tsv'")
    fingerprint = _fingerprint(corpora, tokenizers, cleaning, sampling, augmentation, held_out, seed)
    destination = folder / fingerprint[:16]
    if not destination.exists():
        encoder = ChunkEncoder(tokenizers, cleaning, sampling, augmentation, seed)
        try:
            with published(destination) as partial:
                seen = HashSet(partial) if cleaning.drop_duplicates else None
                report = _write_shards(partial, corpora, tokenizers, encoder, held_out, seen, workers, progress)
                manifest = _Manifest(
                    fingerprint=fingerprint,
                    pairs=tuple(entry.kept for entry in report.corpora),
                    variants=sampling.variants,
                    source_vocabulary=tokenizers.source.vocabulary_size,
                    target_vocabulary=tokenizers.target.vocabulary_size,
                )
                report.save(partial / _REPORT)
                (partial / _MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise CorpusError(f"{folder}: the encoded corpus cannot be written: {error.strerror or error}") from error
    return Corpus(destination, [corpus.weight for corpus in corpora])


def _write_shards(
    folder: Path,
    corpora: Sequence[CorpusConfig],
    tokenizers: TokenizerPair,
    encoder: ChunkEncoder,
    held_out: HashArray,
    seen: HashSet | None,
    workers: int,
    progress: Callable[[int], None] | None,
) -> CleaningReport:
    with (
        ShardWriter(folder, "source", piece_dtype(tokenizers.source.vocabulary_size)) as source,
        ShardWriter(folder, "target", piece_dtype(tokenizers.target.vocabulary_size)) as target,
    ):
        report = encode(
            corpora, encoder, source, target, held_out=held_out, seen=seen, workers=workers, progress=progress
        )
    if not any(entry.kept for entry in report.corpora):
        raise nothing_left(report)
    return report


def _fingerprint(
    corpora: Sequence[CorpusConfig],
    tokenizers: TokenizerPair,
    cleaning: CleaningConfig,
    sampling: SamplingConfig,
    augmentation: Augmentation,
    held_out: HashArray,
    seed: int,
) -> str:
    """SHA-256 over the content of all inputs and the settings; where files lie and corpora's weights do not matter."""
    description: dict[str, object] = {
        "format": _FORMAT,
        "corpora": [[corpus.label, *hash_corpus(corpus)] for corpus in corpora],
        "tokenizers": {name: hashlib.sha256(model).hexdigest() for name, model in tokenizers.files().items()},
        "cleaning": cleaning.model_dump(mode="json"),
        "sampling": [sampling.variants, *((sampling.alpha, seed) if sampling.variants > 1 else ())],
    }
    if len(held_out):
        description["held_out"] = _hash(held_out)
    if augmentation.config.active:
        options = augmentation.config.model_dump(mode="json")
        description["augmentation"] = [options, augmentation.symbols, _hash(augmentation.held_out)]
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _hash(hashes: HashArray) -> str:
    return hashlib.sha256(np.unique(hashes).tobytes()).hexdigest()
