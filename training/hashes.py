"""A set of 64-bit hashes in eight bytes each, for finding duplicates in corpora that do not fit in memory."""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def hash_pairs(pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.uint64]:
    """One hash per (source, target), uint64: equal pairs have equal hashes, on every machine."""
    digests = b"".join(
        hashlib.blake2b(f"{source}\0{target}".encode(), digest_size=8).digest() for source, target in pairs
    )
    return np.frombuffer(digests, dtype=np.uint64)


class HashSet:
    """Sorted runs of hashes, each at least twice as long as the next, as in a log-structured merge tree.

    At 64 bits, 100 million different pairs hold one false duplicate with a chance of 0.03 %.
    """

    def __init__(self) -> None:
        self._runs: list[npt.NDArray[np.uint64]] = []

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)

    def add(self, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Adds the hashes; returns for each (N,) whether it is new here, true only for the first of equal ones."""
        first = np.zeros(len(hashes), dtype=np.bool_)
        unique, positions = np.unique(hashes, return_index=True)
        unseen = np.ones(len(unique), dtype=np.bool_)
        for run in self._runs:
            nearest = np.minimum(np.searchsorted(run, unique), len(run) - 1)
            unseen &= run[nearest] != unique
        first[positions[unseen]] = True
        self._insert(unique[unseen])
        return first

    def _insert(self, run: npt.NDArray[np.uint64]) -> None:
        if len(run) == 0:
            return
        while self._runs and len(self._runs[-1]) < 2 * len(run):
            run = np.concatenate([self._runs.pop(), run])
            run.sort()
        self._runs.append(run)
