"""Parallel text from files: plain, TSV and compressed, streamed line by line, with errors that name file and line."""

import gzip
import io
import lzma
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO, NamedTuple

import zstandard

from training.corpus_config import CorpusConfig

_BYTE_ORDER_MARK = "\ufeff"


class CorpusError(Exception):
    """Parallel text that cannot be used; the message says which file and line, and what would be right."""


class Pair(NamedTuple):
    """A source segment, its target, and the line they stand in (from 1)."""

    source: str
    target: str
    line: int


def read_pairs(corpus: CorpusConfig) -> Iterator[Pair]:
    """Streams the pairs of a corpus as they stand in its files, without line ends, neither normalised nor cleaned.

    Raises CorpusError for missing, empty, broken or non-UTF-8 files, unequal line counts, and TSV rows of one column.
    """
    if corpus.tsv is not None:
        return _read_tsv(corpus.tsv)
    assert corpus.source is not None and corpus.target is not None  # CorpusConfig's validator holds this
    return _read_aligned(corpus.source, corpus.target)


def read_all(corpora: Iterable[CorpusConfig]) -> list[Pair]:
    """All pairs of some small corpora (dev, test) in order, held in memory."""
    return [pair for corpus in corpora for pair in read_pairs(corpus)]


def read_lines(path: Path) -> Iterator[str]:
    """Streams the lines of a UTF-8 text file (plain, .gz, .xz or .zst), without line ends.

    Only LF and CR LF end a line: other separators (U+2028, U+0085, ...) stay, so that aligned files stay aligned.
    """
    number = 0
    with _failures_named(path), _open(path) as stream:
        for number, raw in enumerate(stream, start=1):
            line = _decode(raw, path, number)
            yield line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
    if number == 0:
        raise CorpusError(f"{path}: the file is empty; expected one segment a line")


def _read_aligned(source: Path, target: Path) -> Iterator[Pair]:
    sources, targets = read_lines(source), read_lines(target)
    for line, (source_text, target_text) in enumerate(zip_longest(sources, targets), start=1):
        if source_text is None or target_text is None:
            rest = 1 + sum(1 for _ in (targets if source_text is None else sources))
            counts = (line - 1, line - 1 + rest) if source_text is None else (line - 1 + rest, line - 1)
            raise CorpusError(
                f"{source} has {counts[0]} lines but {target} has {counts[1]}, so line {line} has no counterpart; "
                "line i of one file must be the translation of line i of the other"
            )
        yield Pair(source_text, target_text, line)


def _read_tsv(path: Path) -> Iterator[Pair]:
    for number, line in enumerate(read_lines(path), start=1):
        columns = line.split("\t", maxsplit=2)
        if len(columns) < 2:
            raise CorpusError(
                f"{path}:{number}: the line has no tab; expected the source, a tab, and the target: {line[:80]!r}"
            )
        yield Pair(columns[0], columns[1], number)


def _decode(raw: bytes, path: Path, number: int) -> str:
    try:
        return raw.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path}:{number}: not UTF-8 at byte {error.start + 1} of the line (0x{raw[error.start]:02x}); "
            "convert the file to UTF-8"
        ) from error


@contextmanager
def _failures_named(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise CorpusError(f"{path}: there is no such file; check the path in the recipe") from error
    except IsADirectoryError as error:
        raise CorpusError(f"{path}: this is a folder; name the text file in it") from error
    except (EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError, gzip.BadGzipFile) as error:
        raise CorpusError(
            f"{path}: the compressed data is broken or cut short ({error}); fetch or compress the file again"
        ) from error
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read: {error.strerror or error}") from error


def _open(path: Path) -> BinaryIO:
    match path.suffix:
        case ".gz":
            return io.BufferedReader(gzip.open(path, "rb"))
        case ".xz":
            return io.BufferedReader(lzma.open(path, "rb"))
        case ".zst":
            return io.BufferedReader(_ZstdFile(path), buffer_size=zstandard.DECOMPRESSION_RECOMMENDED_OUTPUT_SIZE)
        case _:
            return path.open("rb")


class _ZstdFile(io.RawIOBase):
    """A .zst file as a byte stream. Cut short, it raises EOFError, where the library's own reader just ends."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._decompressor = zstandard.ZstdDecompressor()
        self._frame = self._decompressor.decompressobj()
        self._compressed = b""
        self._inside_frame = False
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._ready and self._advance():
            pass
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size

    def _advance(self) -> bool:
        """Decompresses one more block into ``_ready``; False at the end of the file."""
        self._compressed = self._compressed or self._file.read(zstandard.DECOMPRESSION_RECOMMENDED_INPUT_SIZE)
        if not self._compressed:
            if self._inside_frame:
                raise EOFError("the last frame has no end")
            return False
        self._ready = self._frame.decompress(self._compressed)
        self._compressed, self._inside_frame = self._frame.unused_data, not self._frame.eof
        if self._frame.eof:
            self._frame = self._decompressor.decompressobj()
        return True

    def close(self) -> None:
        self._file.close()
        super().close()
