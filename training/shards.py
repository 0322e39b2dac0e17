"""Sequences of piece ids on disk, memory-mapped: one flat file of pieces, one of offsets.

Sequence i is ``pieces[offsets[i]:offsets[i + 1]]``. Writing holds one chunk in memory; reading holds nothing.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

import numpy as np
import numpy.typing as npt

from training.reading import CorpusError

_OFFSET = np.dtype("<i8")

_Number = TypeVar("_Number", bound=np.generic)
PieceType = np.dtype[np.uint16 | np.uint32]
PieceArray = npt.NDArray[np.uint16 | np.uint32]
IndexArray = npt.NDArray[np.int64]


def piece_dtype(vocabulary_size: int) -> PieceType:
    """The narrowest type that holds every id of the vocabulary."""
    return np.dtype("<u2") if vocabulary_size <= 1 << 16 else np.dtype("<u4")


class ShardWriter:
    """Appends to ``<name>.pieces`` and ``<name>.offsets`` of a folder; a context manager that syncs at its end."""

    def __init__(self, folder: Path, name: str, dtype: PieceType) -> None:
        self._dtype = dtype
        self._pieces = (folder / f"{name}.pieces").open("wb")
        self._offsets = (folder / f"{name}.offsets").open("wb")
        self._offsets.write(np.zeros(1, dtype=_OFFSET).tobytes())
        self._end = 0

    def append(self, sequences: Sequence[Sequence[int]]) -> None:
        """Writes the sequences after those written before."""
        if not sequences:
            return
        ends = self._end + np.cumsum([len(sequence) for sequence in sequences], dtype=_OFFSET)
        flat = np.fromiter((piece for sequence in sequences for piece in sequence), dtype=self._dtype)
        self._pieces.write(flat.tobytes())
        self._offsets.write(ends.tobytes())
        self._end = int(ends[-1])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in (self._pieces, self._offsets):
            with file:
                if kind is None:
                    file.flush()
                    os.fsync(file.fileno())


class Gathered(NamedTuple):
    """Some sequences one after the other: ``pieces`` (sum of lengths,), and their ``lengths`` (N,) int64."""

    pieces: PieceArray
    lengths: IndexArray


class Shard:
    """The sequences that a ShardWriter wrote."""

    def __init__(self, folder: Path, name: str, dtype: PieceType, count: int) -> None:
        """Maps the files; raises CorpusError when they are missing or do not hold ``count`` sequences."""
        self._offsets = _map(folder / f"{name}.offsets", _OFFSET, count + 1)
        self._pieces = _map(folder / f"{name}.pieces", dtype, int(self._offsets[-1]))

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> PieceArray:
        """Sequence ``index``, (length,)."""
        return self._pieces[self._offsets[index] : self._offsets[index + 1]]

    def lengths(self, indices: IndexArray | slice) -> npt.NDArray[np.int32]:
        """Pieces in each of the sequences asked for, (N,) int32; no pieces are read."""
        return (self._offsets[1:][indices] - self._offsets[:-1][indices]).astype(np.int32)

    def gather(self, indices: IndexArray) -> Gathered:
        """The sequences at ``indices`` (N,), one after the other."""
        starts = self._offsets[indices]
        lengths = self._offsets[indices + 1] - starts
        ends = np.cumsum(lengths)
        positions = np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1])
        return Gathered(self._pieces[positions], lengths)


def _map(path: Path, dtype: np.dtype[_Number], count: int) -> npt.NDArray[_Number]:
    expected = count * dtype.itemsize
    found = path.stat().st_size if path.exists() else 0
    if found != expected or count == 0:
        raise CorpusError(
            f"{path}: expected {expected} bytes, found {found}; the encoded corpus is damaged: "
            f"delete the folder {path.parent} and it will be encoded again"
        )
    return np.asarray(np.memmap(path, dtype=dtype, mode="r", shape=(count,)))
