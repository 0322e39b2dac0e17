"""Hashes of pairs and files, and a set of hashes that grows on disk: to find duplicates in corpora of any size."""

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.corpus_config import CorpusConfig
from training.reading import CorpusError

HashArray = npt.NDArray[np.uint64]

NO_HASHES = np.empty(0, dtype=np.uint64)

_IN_MEMORY = 1 << 20  # hashes; a longer run is a file


def hash_pairs(pairs: Sequence[tuple[str, str]]) -> HashArray:
    """One hash per (source, target), uint64: equal pairs have equal hashes, on every machine."""
    digests = b"".join(
        hashlib.blake2b(f"{source}\0{target}".encode(), digest_size=8).digest() for source, target in pairs
    )
    return np.frombuffer(digests, dtype=np.uint64)


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content; read once in a process unless it changes. Raises CorpusError."""
    try:
        status = path.stat()
        return _hash_content(path, status.st_size, status.st_mtime_ns)
    except FileNotFoundError as error:
        raise CorpusError(f"{path}: there is no such file; check the path") from error
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read: {error.strerror or error}") from error


def hash_corpus(corpus: CorpusConfig) -> list[str]:
    """What tells the pairs of a corpus from others: its files' hashes, and how many are taken if not all are."""
    first = () if corpus.first is None else (f"first {corpus.first}",)
    return [*map(hash_file, corpus.files), *first]


class HashSet:
    """Sorted runs of hashes, each at least twice as long as the next: a log-structured merge tree (O'Neil et al. 1996).

    Runs of more than a million hashes are memory-mapped files without a name, which vanish with the process: 8 bytes a
    hash on disk, twice that while runs are merged, and at most 32 MB of memory. At 64 bits, 100 million different pairs
    hold one false duplicate with a chance of 0.03 %.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """``folder`` is where the files lie; default: the system's folder for temporary files."""
        self._folder = folder
        self._runs: list[HashArray] = []

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)

    def add(self, hashes: HashArray) -> npt.NDArray[np.bool_]:
        """Adds the hashes; returns for each (N,) whether it is new here, true only for the first of equal ones.

        Raises OSError where the disk is full.
        """
        first = np.zeros(len(hashes), dtype=np.bool_)
        unique, positions = np.unique(hashes, return_index=True)
        unseen = np.ones(len(unique), dtype=np.bool_)
        for run in self._runs:
            nearest = np.minimum(np.searchsorted(run, unique), len(run) - 1)
            unseen &= run[nearest] != unique
        first[positions[unseen]] = True
        self._insert(unique[unseen])
        return first

    def _insert(self, run: HashArray) -> None:
        if len(run) == 0:
            return
        while self._runs and len(self._runs[-1]) < 2 * len(run):
            run = self._merged(self._runs.pop(), run)
        self._runs.append(run)

    def _merged(self, first: HashArray, second: HashArray) -> HashArray:
        size = len(first) + len(second)
        if size <= _IN_MEMORY:
            return np.sort(np.concatenate([first, second]))
        with tempfile.TemporaryFile(dir=self._folder) as file:
            for part in _merged_parts(first, second, parts=-(-size // _IN_MEMORY)):
                file.write(part.tobytes())
            file.flush()
            return np.asarray(np.memmap(file, dtype=np.uint64, mode="r", shape=(size,)))


def _merged_parts(first: HashArray, second: HashArray, parts: int) -> Iterator[HashArray]:
    """Both runs in one order, part by part. Hashes are spread evenly, so equal ranges hold about equally many."""
    edges = np.array([(part << 64) // parts for part in range(1, parts)], dtype=np.uint64)
    cuts = [[0, *np.searchsorted(run, edges).tolist(), len(run)] for run in (first, second)]
    for part in range(parts):
        pieces = [run[cut[part] : cut[part + 1]] for run, cut in zip((first, second), cuts, strict=True)]
        yield np.sort(np.concatenate(pieces))


@lru_cache
def _hash_content(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
