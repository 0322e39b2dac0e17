"""Parallel text made ready for training: read, cleaned, encoded once, and kept as memory-mapped shards.

A prepared corpus is a folder named by the fingerprint of all that went into it, so a second run finds and reuses it,
and a changed file or setting gives another. Of N pairs in K variants, row ``pair * K + variant`` of the two shards is
one encoding; variant 0 is the canonical one.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from tokenizer.subword import Subword, TokenizerPair, seed_sampling
from training.cleaning import Cleaner, CleaningReport, CorpusReport, Tally, nothing_left
from training.corpus_config import CleaningConfig, CorpusConfig, SamplingConfig
from training.reading import CorpusError, Pair, read_pairs
from training.shards import IndexArray, PieceArray, Shard, ShardWriter, piece_dtype

_FORMAT = 1
_MANIFEST = "manifest.json"
_REPORT = "cleaning.json"


class LengthRatio(NamedTuple):
    """Mean and standard deviation of target pieces / source pieces, for the model's length limit."""

    mean: float
    deviation: float


class _Manifest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

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
        self.weights: npt.NDArray[np.float64] = np.repeat(np.asarray(weights, dtype=np.float64), manifest.pairs)

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def source_lengths(self) -> npt.NDArray[np.int32]:
        """Pieces of each source in its canonical encoding, (N,), without end of sentence."""
        return self.source.lengths(slice(0, None, self.variants))

    @property
    def target_lengths(self) -> npt.NDArray[np.int32]:
        """Pieces of each target in its canonical encoding, (N,), without begin and end of sentence."""
        return self.target.lengths(slice(0, None, self.variants))

    def rows(self, pairs: IndexArray, variants: IndexArray | int = 0) -> IndexArray:
        """The rows of the shards that hold ``variants`` of ``pairs``, (N,)."""
        return pairs * self.variants + variants

    def pair(self, index: int, variant: int = 0) -> tuple[PieceArray, PieceArray]:
        """Source and target pieces of one pair, without begin and end of sentence."""
        row = range(len(self))[index] * self.variants + range(self.variants)[variant]
        return self.source[row], self.target[row]

    def length_ratio(self) -> LengthRatio:
        """Statistics of target pieces / source pieces over the canonical encodings."""
        ratios = self.target_lengths / self.source_lengths
        return LengthRatio(float(ratios.mean()), float(ratios.std()))


def prepare_corpus(
    corpora: Sequence[CorpusConfig],
    tokenizers: TokenizerPair,
    cleaning: CleaningConfig,
    sampling: SamplingConfig,
    folder: Path,
    *,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Corpus:
    """Reads, cleans and encodes ``corpora`` into a new folder below ``folder``, or opens the one of an earlier run.

    ``seed`` is that of the sampled variants; ``progress`` is called with the number of pairs written so far. The folder
    appears by a rename when it is whole. Raises CorpusError for unusable text, a full disk, or when nothing is left.
    """
    if not corpora:
        raise CorpusError("the recipe names no corpus; give at least one with 'source' and 'target', or 'tsv'")
    fingerprint = _fingerprint(corpora, tokenizers, cleaning, sampling, seed)
    weights = [corpus.weight for corpus in corpora]
    destination = folder / fingerprint[:16]
    if not destination.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=folder))
        try:
            encoder = _Encoder(tokenizers, cleaning, sampling, partial, progress)
            seed_sampling(seed)
            _write_folder(encoder, corpora, fingerprint)
            _publish(partial, destination)
        except OSError as error:
            raise CorpusError(f"{folder}: the encoded corpus cannot be written: {error.strerror or error}") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return Corpus(destination, weights)


class _Encoder:
    """Writes the encodings of cleaned pairs into the shards of one folder."""

    def __init__(
        self,
        tokenizers: TokenizerPair,
        cleaning: CleaningConfig,
        sampling: SamplingConfig,
        folder: Path,
        progress: Callable[[int], None] | None,
    ) -> None:
        self.tokenizers, self.sampling, self.folder = tokenizers, sampling, folder
        self._cleaner = Cleaner(cleaning)
        self._max_pieces = cleaning.max_pieces
        self._progress = progress
        self._written = 0

    def encode(self, corpus: CorpusConfig, source: ShardWriter, target: ShardWriter) -> CorpusReport:
        tally = Tally(corpus.label)
        for chunk in self._cleaner.clean(read_pairs(corpus), tally):
            kept, sources, targets = self._canonical(chunk, tally)
            source.append(self._variants(self.tokenizers.source, [pair.source for pair in kept], sources))
            target.append(self._variants(self.tokenizers.target, [pair.target for pair in kept], targets))
            self._written += len(kept)
            if self._progress is not None:
                self._progress(self._written)
        return tally.report()

    def _canonical(self, chunk: list[Pair], tally: Tally) -> tuple[list[Pair], list[list[int]], list[list[int]]]:
        sources = self.tokenizers.source.encode_batch([pair.source for pair in chunk])
        targets = self.tokenizers.target.encode_batch([pair.target for pair in chunk])
        kept = [
            index
            for index, pair in enumerate(chunk)
            if self._cleaner.fits(pair, len(sources[index]), len(targets[index]), tally)
        ]
        return [chunk[i] for i in kept], [sources[i] for i in kept], [targets[i] for i in kept]

    def _variants(self, subword: Subword, texts: list[str], canonical: list[list[int]]) -> list[list[int]]:
        """The canonical encoding of each text, followed by its sampled ones; a sample that is too long is not used."""
        rounds = [canonical]
        for _ in range(1, self.sampling.variants):
            sampled = subword.sample_batch(texts, self.sampling.alpha)
            pairs = zip(sampled, canonical, strict=True)
            rounds.append([sample if 0 < len(sample) <= self._max_pieces else whole for sample, whole in pairs])
        return [encoding for encodings in zip(*rounds, strict=True) for encoding in encodings]


def _write_folder(encoder: _Encoder, corpora: Sequence[CorpusConfig], fingerprint: str) -> None:
    folder = encoder.folder
    sizes = (encoder.tokenizers.source.vocabulary_size, encoder.tokenizers.target.vocabulary_size)
    with (
        ShardWriter(folder, "source", piece_dtype(sizes[0])) as source,
        ShardWriter(folder, "target", piece_dtype(sizes[1])) as target,
    ):
        report = CleaningReport(corpora=tuple(encoder.encode(corpus, source, target) for corpus in corpora))
    kept = tuple(entry.kept for entry in report.corpora)
    if sum(kept) == 0:
        raise nothing_left(report)
    manifest = _Manifest(
        fingerprint=fingerprint,
        pairs=kept,
        variants=encoder.sampling.variants,
        source_vocabulary=sizes[0],
        target_vocabulary=sizes[1],
    )
    report.save(folder / _REPORT)
    (folder / _MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _publish(partial: Path, destination: Path) -> None:
    partial.chmod(0o755)
    try:
        os.rename(partial, destination)
    except OSError:
        if not destination.is_dir():  # otherwise another run has just made the same corpus
            raise


def _fingerprint(
    corpora: Sequence[CorpusConfig],
    tokenizers: TokenizerPair,
    cleaning: CleaningConfig,
    sampling: SamplingConfig,
    seed: int,
) -> str:
    """SHA-256 over the content of all inputs and the settings; where files lie and corpora's weights do not matter."""
    description = {
        "format": _FORMAT,
        "corpora": [[corpus.label, *(_file_sha256(path) for path in corpus.files)] for corpus in corpora],
        "tokenizers": {name: hashlib.sha256(model).hexdigest() for name, model in tokenizers.files().items()},
        "cleaning": cleaning.model_dump(mode="json"),
        "sampling": [sampling.variants, *((sampling.alpha, seed) if sampling.variants > 1 else ())],
    }
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _file_sha256(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise CorpusError(f"{path}: there is no such file; check the path in the recipe") from error
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read: {error.strerror or error}") from error
