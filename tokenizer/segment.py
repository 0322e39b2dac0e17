"""A text as segments to translate and the exact characters between them."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import sentencex  # type: ignore[import-untyped]

from tokenizer.normalize import is_blank, require_text

MAX_CHARACTERS = 500
WINDOW = 2_000  # characters given to the library at once, because some texts take it quadratic time

# Comma, semicolon, colon (and the Arabic ones), ellipsis, dash before white space; their full-width forms anywhere.
_CLAUSE_END = re.compile(r"(?s:.*)(?:[,;:\u060c\u061b\u2026\u2013\u2014](?=\s)|[\uff0c\u3001\uff1b\uff1a])")
_WORD_END = re.compile(r"(?s:.*)(?=\s)")
# Space of more than one byte makes the library panic, and it takes none of these for a sentence's end.
_SPACE_OR_CONTROL = re.compile(r"[\s\x00-\x1f\x7f-\x9f]")
_JOINER = "\u200d"
_LONGEST_MARKS = 8


class Document(NamedTuple):
    """A text cut into segments, len(separators) == len(segments) + 1.

    separators[0], segments[0], separators[1], … , separators[-1] in a row are the text. No segment begins or ends with
    white space, none normalises to nothing; a separator holds white space and characters that normalisation drops.
    """

    segments: list[str]
    separators: list[str]

    def rebuild(self, translations: Sequence[str]) -> str:
        """The text with a translation in the place of each segment.

        Raises ValueError unless there is one translation for each segment.
        """
        if len(translations) != len(self.segments):
            raise ValueError(f"{len(translations)} translations were given for {len(self.segments)} segments")
        pairs = zip(translations, self.separators[1:], strict=True)
        return self.separators[0] + "".join(part for pair in pairs for part in pair)


def split(text: str, language: str, *, max_characters: int = MAX_CHARACTERS) -> Document:
    """Split text at line ends and sentence ends, and a longer sentence behind a clause or word, or at max_characters.

    language is a BCP 47 tag; for one that the library does not know, it uses the sentence ends of English.
    Takes time linear in len(text). Raises InvalidTextError for a lone surrogate, ValueError for max_characters < 1.
    """
    require_text(text)
    if max_characters < 1:
        raise ValueError(f"max_characters is {max_characters}, but has to be at least 1")
    segments: list[str] = []
    separators: list[str] = []
    behind = 0
    for start, end in _segment_spans(text, language.split("-")[0].lower(), max_characters):
        separators.append(text[behind:start])
        segments.append(text[start:end])
        behind = end
    separators.append(text[behind:])
    return Document(segments, separators)


def _segment_spans(text: str, language: str, max_characters: int) -> Iterator[tuple[int, int]]:
    """[start, end) of each segment, in order."""
    line_start = 0
    for line in text.splitlines(keepends=True):
        start = 0
        for end in () if line.isspace() else _sentence_ends(line, language, max(WINDOW, 2 * max_characters)):
            for part_start, part_end in _short_spans(line, start, end, max_characters):
                yield line_start + part_start, line_start + part_end
            start = end
        line_start += len(line)


def _sentence_ends(line: str, language: str, window: int) -> Iterator[int]:
    """Where the sentences of a line end; the last end is len(line)."""
    start = 0
    while start < len(line):
        stop = len(line) if len(line) - start <= window else _cut(line, start, start + window)
        lengths = _sentence_lengths(line[start:stop], language)
        if stop < len(line) and lengths[-1] < (stop - start) / 2:
            lengths.pop()  # the window may have cut this sentence: it opens the next window
        for length in lengths:
            start += length
            yield start


def _sentence_lengths(text: str, language: str) -> list[int]:
    """Lengths of the sentences of a non-empty text with the white space behind them; their sum is len(text)."""
    plain = _SPACE_OR_CONTROL.sub(" ", text)
    try:
        sentences: list[str] = sentencex.segment(language, plain)
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # what a panic in Rust raises, and no module exports
            raise
        return [len(text)]
    if "".join(sentences) != plain:
        return [len(text)]
    return [len(sentence) for sentence in sentences]


def _short_spans(text: str, start: int, end: int, max_characters: int) -> Iterator[tuple[int, int]]:
    """The spans of [start, end) without outer white space, each at most max_characters long and none blank."""
    while True:
        while start < end and text[start].isspace():
            start += 1
        while end > start and text[end - 1].isspace():
            end -= 1
        if start == end:
            return
        stop = end if end - start <= max_characters else _cut(text, start, start + max_characters)
        if not is_blank(text[start:stop]):
            yield start, start + len(text[start:stop].rstrip())
        start = stop


def _cut(text: str, start: int, limit: int) -> int:
    """The best place in (start, limit] to cut: behind a clause in the second half, else behind a word, else limit."""
    clause = _CLAUSE_END.match(text, start, limit + 1)
    if clause and (start + limit) / 2 < clause.end() <= limit:
        return clause.end()
    word = _WORD_END.match(text, start, limit + 1)
    if word and word.end() > start:
        return word.end()
    for place in range(limit, max(start, limit - _LONGEST_MARKS), -1):
        if not unicodedata.combining(text[place]) and _JOINER not in text[place - 1 : place + 1]:
            return place
    return limit
