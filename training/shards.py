"""Sequences of piece ids on disk, memory-mapped: one flat file of pieces, one of offsets, and checksums of both.

Sequence i is ``pieces[offsets[i]:offsets[i + 1]]``. A sequence takes 8 bytes and 2 or 4 more a piece, a checksum 4
bytes a MiB. Writing holds one chunk in memory; reading holds nothing.
"""

import os
import zlib
from array import array
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

import numpy as np
import numpy.typing as npt

from training.reading import CorpusError

_OFFSET = np.dtype("<i8")
_CHECKSUM = np.dtype("<u4")
_CHECKED_BYTES = 1 << 20  # under one checksum
_CHECKS = 64  # of a file, when it is opened

_Number = TypeVar("_Number", bound=np.generic)
PieceType = np.dtype[np.uint16 | np.uint32]
PieceArray = npt.NDArray[np.uint16 | np.uint32]
IndexArray = npt.NDArray[np.int64]


def piece_dtype(vocabulary_size: int) -> PieceType:
    """The narrowest type that holds every id of the vocabulary."""
    return np.dtype("<u2") if vocabulary_size <= 1 << 16 else np.dtype("<u4")


class Gathered(NamedTuple):
    """Some sequences one after the other: ``pieces`` (sum of lengths,), and their ``lengths`` (N,) int64."""

    pieces: PieceArray
    lengths: IndexArray

    def where(self, chosen: npt.NDArray[np.bool_]) -> "Gathered":
        """The sequences for which ``chosen`` (N,) is true."""
        return Gathered(self.pieces[np.repeat(chosen, self.lengths)], self.lengths[chosen])


class ShardWriter:
    """Appends to ``<name>.pieces`` and ``<name>.offsets`` of a folder; a context manager that syncs at its end."""

    def __init__(self, folder: Path, name: str, dtype: PieceType) -> None:
        self._dtype = dtype
        self._pieces = _CheckedFile(folder / f"{name}.pieces")
        self._offsets = _CheckedFile(folder / f"{name}.offsets")
        self._offsets.write(np.zeros(1, dtype=_OFFSET).tobytes())
        self._end = 0

    def append(self, sequences: Gathered) -> None:
        """Writes the sequences after those written before."""
        ends = self._end + np.cumsum(sequences.lengths, dtype=_OFFSET)
        self._pieces.write(sequences.pieces.astype(self._dtype).tobytes())
        self._offsets.write(ends.tobytes())
        self._end += len(sequences.pieces)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in (self._pieces, self._offsets):
            file.close(whole=kind is None)


class Shard:
    """The sequences that a ShardWriter wrote."""

    def __init__(self, folder: Path, name: str, dtype: PieceType, count: int) -> None:
        """Maps the files; raises CorpusError when they are missing, damaged, or do not hold ``count`` sequences.

        Checked are sizes and the checksums of 64 MiB a file, spread over it: at most some 0.1 s a file from memory.
        So a small file is checked whole, and of a large one what is cut short, left out or overwritten at length.
        """
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


class _CheckedFile:
    """A file written from its start to its end, with ``<file>.crc32`` beside it: a CRC-32 for each MiB."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")
        self._checksums = array("I")
        self._filled = 0  # bytes under the last checksum

    def write(self, data: bytes) -> None:
        self._file.write(data)
        start = 0
        while start < len(data):
            if self._filled == 0:
                self._checksums.append(0)
            part = memoryview(data)[start : start + _CHECKED_BYTES - self._filled]
            self._checksums[-1] = zlib.crc32(part, self._checksums[-1])
            self._filled = (self._filled + len(part)) % _CHECKED_BYTES
            start += len(part)

    def close(self, whole: bool) -> None:
        with self._file:
            if whole:
                _checksum_file(self._path).write_bytes(np.array(self._checksums, dtype=_CHECKSUM).tobytes())
                self._file.flush()
                os.fsync(self._file.fileno())


def _map(path: Path, dtype: np.dtype[_Number], count: int) -> npt.NDArray[_Number]:
    expected = count * dtype.itemsize
    found = path.stat().st_size if path.exists() else 0
    if found != expected or count == 0:
        raise _damaged(path, f"expected {expected} bytes, found {found}")
    _verify(path, expected)
    return np.asarray(np.memmap(path, dtype=dtype, mode="r", shape=(count,)))


def _verify(path: Path, size: int) -> None:
    blocks = -(-size // _CHECKED_BYTES)
    try:
        checksums = np.frombuffer(_checksum_file(path).read_bytes(), dtype=_CHECKSUM)
    except (OSError, ValueError) as error:
        raise _damaged(path, f"its checksums cannot be read ({error})") from error
    if len(checksums) != blocks:
        raise _damaged(path, f"expected {blocks} checksums, found {len(checksums)}")
    with path.open("rb") as file:
        for block in np.unique(np.linspace(0, blocks - 1, _CHECKS).round().astype(int)).tolist():
            file.seek(block * _CHECKED_BYTES)
            if zlib.crc32(file.read(_CHECKED_BYTES)) != checksums[block]:
                raise _damaged(path, f"bytes {block * _CHECKED_BYTES} and following differ from what was written")


def _checksum_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.crc32")


def _damaged(path: Path, what: str) -> CorpusError:
    return CorpusError(
        f"{path}: {what}; the encoded corpus is damaged: delete the folder {path.parent} and it will be encoded again"
    )
