"""Parallel text from files: plain, TSV and compressed, streamed, with errors that name file and line.

Lines travel as chunks of undecoded bytes, so that reading costs little and decoding can happen in another process.
"""

import gzip
import io
import lzma
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count, islice, zip_longest
from pathlib import Path
from typing import BinaryIO, NamedTuple

import zstandard

from training.corpus_config import CorpusConfig

CHUNK_PAIRS = 8192
CHUNK_BYTES = 1 << 23  # ends a chunk of long lines early, so that memory stays bounded
_BYTE_ORDER_MARK = "\ufeff"


class CorpusError(Exception):
    """Parallel text that cannot be used; the message says which file and line, and what would be right."""


class Pair(NamedTuple):
    """A source segment, its target, and the line they stand in (from 1)."""

    source: str
    target: str
    line: int


class Chunk(NamedTuple):
    """Consecutive lines of one corpus of a list, undecoded."""

    number: int  # among the chunks of the list, from 0
    corpus: int  # which of the list, from 0
    files: tuple[Path, ...]  # source and target, or one TSV
    first_line: int  # from 1
    lines: tuple[bytes, ...]  # of each file, line ends included

    def pairs(self) -> list[Pair]:
        """The pairs as they stand, without line ends. Raises CorpusError for lines that are not UTF-8 or no TSV."""
        texts = [_decode(path, lines, self.first_line) for path, lines in zip(self.files, self.lines, strict=True)]
        sources, targets = texts if len(texts) == 2 else _columns(self.files[0], texts[0], self.first_line)
        return list(map(Pair, sources, targets, count(self.first_line)))


def read_chunks(corpora: Sequence[CorpusConfig]) -> Iterator[Chunk]:
    """Streams the corpora one after the other, each in chunks of CHUNK_PAIRS lines or a little over CHUNK_BYTES.

    Raises CorpusError for missing, empty or broken files and unequal line counts.
    """
    number = count()
    for index, corpus in enumerate(corpora):
        line = 1
        for rows in _grouped(islice(_rows(corpus.files), corpus.first)):
            yield Chunk(next(number), index, corpus.files, line, tuple(map(b"".join, zip(*rows, strict=True))))
            line += len(rows)


def read_pairs(corpus: CorpusConfig) -> Iterator[Pair]:
    """Streams the pairs of a corpus as they stand in its files, without line ends, neither normalised nor cleaned.

    Raises CorpusError for missing, empty, broken or non-UTF-8 files, unequal line counts, and TSV rows of one column.
    """
    for chunk in read_chunks([corpus]):
        yield from chunk.pairs()


def read_all(corpora: Iterable[CorpusConfig]) -> list[Pair]:
    """All pairs of some small corpora (dev, test) in order, held in memory."""
    return [pair for corpus in corpora for pair in read_pairs(corpus)]


def read_lines(path: Path) -> Iterator[str]:
    """Streams the lines of a UTF-8 text file (plain, .gz, .xz or .zst), without line ends.

    Only LF and CR LF end a line: other separators (U+2028, U+0085, ...) stay, so that aligned files stay aligned.
    """
    for number, raw in enumerate(_raw_lines(path), start=1):
        yield from _decode(path, raw, number)


def _rows(files: tuple[Path, ...]) -> Iterator[tuple[bytes, ...]]:
    """The undecoded lines of aligned files, or of one file."""
    if len(files) == 1:
        yield from zip(_raw_lines(files[0]))
        return
    columns = [_raw_lines(path) for path in files]
    for line, row in enumerate(zip_longest(*columns), start=1):
        if None in row:
            rest = 1 + sum(1 for _ in columns[row.index(None) - 1])
            counts = [line - 1 + (rest if text is not None else 0) for text in row]
            raise CorpusError(
                f"{files[0]} has {counts[0]} lines but {files[1]} has {counts[1]}, so line {line} has no counterpart; "
                "line i of one file must be the translation of line i of the other"
            )
        yield row


def _grouped(rows: Iterator[tuple[bytes, ...]]) -> Iterator[list[tuple[bytes, ...]]]:
    group: list[tuple[bytes, ...]] = []
    size = 0
    for row in rows:
        group.append(row)
        size += len(row[0]) + len(row[-1])
        if len(group) >= CHUNK_PAIRS or size >= CHUNK_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _raw_lines(path: Path) -> Iterator[bytes]:
    empty = True
    with _failures_named(path), _open(path) as stream:
        for line in stream:
            empty = False
            yield line
    if empty:
        raise CorpusError(f"{path}: the file is empty; expected one segment a line")


def _decode(path: Path, lines: bytes, first_line: int) -> list[str]:
    """The texts of the lines, which begin at ``first_line`` of the file."""
    try:
        texts = lines.decode("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        number = first_line + lines.count(b"\n", 0, error.start)
        place = error.start - (lines.rfind(b"\n", 0, error.start) + 1)
        raise CorpusError(
            f"{path}:{number}: not UTF-8 at byte {place + 1} of the line (0x{lines[error.start]:02x}); "
            "convert the file to UTF-8"
        ) from error
    if first_line == 1:
        texts[0] = texts[0].removeprefix(_BYTE_ORDER_MARK)
    return [text.removesuffix("\r") for text in texts]


def _columns(path: Path, texts: list[str], first_line: int) -> tuple[list[str], list[str]]:
    rows = [text.split("\t", maxsplit=2) for text in texts]
    for number, row in enumerate(rows, start=first_line):
        if len(row) < 2:
            raise CorpusError(
                f"{path}:{number}: the line has no tab; expected the source, a tab, and the target: {row[0][:80]!r}"
            )
    return [row[0] for row in rows], [row[1] for row in rows]


@contextmanager
def _failures_named(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise CorpusError(f"{path}: there is no such file; check the path") from error
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
