"""Text in and translations out, for ``ferry translate``."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, TextIO

from app.translator import Translation

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class InputError(ValueError):
    """The input cannot be used; the message says where it is wrong and what would be right."""


class Line(NamedTuple):
    """A line without its end, and the bytes it took with it."""

    text: str
    size: int


class Input(NamedTuple):
    """UTF-8 text, with or without a byte order mark."""

    stream: BinaryIO
    name: str  # for messages
    size: int | None  # in bytes, if known

    def lines(self) -> Iterator[Line]:
        """Lines ended by LF or CRLF and by nothing else. Raises InputError for what is not UTF-8."""
        for number, line in enumerate(self.stream, 1):
            body = line.removesuffix(b"\n").removesuffix(b"\r")
            yield Line(self._decode(body, number), len(line))

    def document(self) -> str:
        """The whole text. Raises InputError for what is not UTF-8."""
        return "".join(self._decode(line, number) for number, line in enumerate(self.stream, 1))

    def _decode(self, line: bytes, number: int) -> str:
        try:
            return (line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line).decode()
        except UnicodeDecodeError as error:
            raise InputError(
                f"{self.name}, line {number}: byte {error.object[error.start]:#04x} is not UTF-8;"
                " convert the input first, for instance with iconv -f LATIN1 -t UTF-8"
            ) from error


class Output(NamedTuple):
    """Where translations go, and how they look there."""

    stream: TextIO
    json: bool
    n_best: int

    def line(self, number: int, translation: Translation) -> None:
        """Write the translation of the input's line ``number``, from 0: a line, or a line for each of the n best."""
        if self.json:
            self.stream.write(_json(translation))
        elif self.n_best == 1:
            self.stream.write(_one_line(translation.text) + "\n")
        else:
            for text, score in _ranked(translation):
                shown = "" if score is None else format(score, ".4f")
                self.stream.write(f"{number} ||| {_one_line(text)} ||| {shown}\n")

    def document(self, translation: Translation) -> None:
        """Write a text as it is."""
        self.stream.write(_json(translation) if self.json else translation.text)


@contextlib.contextmanager
def opened(source: Path | None, target: Path | None) -> Iterator[tuple[Input, TextIO]]:
    """Input and output; None, and ``-`` for the input, are the standard streams. Raises OSError and InputError."""
    with contextlib.ExitStack() as stack:
        if source is None or str(source) == "-":
            opened_source = Input(sys.stdin.buffer, "standard input", None)
        else:
            stream = stack.enter_context(source.open("rb"))
            opened_source = Input(stream, str(source), source.stat().st_size if source.is_file() else None)
            if target is not None and target.exists() and target.samefile(source):
                raise InputError(f"{target} is the input; write to another file, else it would be emptied first")
        if target is None:
            # Whatever the locale says, text is UTF-8 and line ends stay as they are.
            output = open(sys.stdout.fileno(), "w", encoding="utf-8", newline="", closefd=False)  # noqa: SIM115
        else:
            output = target.open("w", encoding="utf-8", newline="")
        yield opened_source, stack.enter_context(output)


def _json(translation: Translation) -> str:
    best, *others = [{"text": text, "score": score} for text, score in _ranked(translation)]
    return json.dumps({**best, "alternatives": others}, ensure_ascii=False) + "\n"


def _ranked(translation: Translation) -> list[tuple[str, float | None]]:
    return [(translation.text, translation.score), *((other.text, other.score) for other in translation.alternatives)]


def _one_line(text: str) -> str:
    """Byte pieces can spell a line end, which must not shift the lines after it."""
    return " ".join(text.splitlines())
