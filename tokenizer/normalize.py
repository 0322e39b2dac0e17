"""The one form of text that the tokenizer sees, and the way back to the original's characters."""

import re
import unicodedata
from typing import NamedTuple

SPACE_MARK = "\u2581"  # SentencePiece writes a space as this block element
SPACE_MARK_SUBSTITUTE = "_"

_SURROGATE = re.compile("[\ud800-\udfff]")
# Control characters (category Cc) that are not white space, the byte order mark and the soft hyphen.
_DROPPED = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ufeff\u00ad]")
# Starters that compose with what stands before them although they are no marks: Hangul jamo, Kirat Rai vowel sign.
_COMPOSING_LETTERS = re.compile("[\u1160-\u11ff\U00016d67]")


class InvalidTextError(ValueError):
    """The text is not Unicode text: it holds a lone surrogate."""


class Normalized(NamedTuple):
    """Normalised text with the place of each of its characters in the original.

    offsets has len(text) + 1 entries and never falls: offsets[i] is the index in the original at which the cluster of
    normalised character i begins (characters that normalisation fused or split apart share one cluster), and the last
    entry is the index just behind the last character that was kept.
    """

    text: str
    offsets: tuple[int, ...]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The [start, end) characters of the original behind the normalised characters [start, end).

        A cluster belongs to the span whole, so no non-empty range has an empty span.
        """
        if start >= end:
            return self.offsets[start], self.offsets[start]
        last = self.offsets[end - 1]
        while end < len(self.offsets) - 1 and self.offsets[end] == last:
            end += 1
        return self.offsets[start], self.offsets[end]


def normalize(text: str) -> str:
    """Normalise text: drop controls, turn every run of white space into one space, strip, compose (Unicode NFC).

    U+2581, which SentencePiece cannot tell from a space, becomes a low line. Idempotent.

    Raises InvalidTextError for a lone surrogate.
    """
    require_text(text)
    kept = _DROPPED.sub("", text).replace(SPACE_MARK, SPACE_MARK_SUBSTITUTE)
    return unicodedata.normalize("NFC", " ".join(kept.split()))


def normalize_with_offsets(text: str) -> Normalized:
    """normalize(text), with the original index of every character. Raises InvalidTextError like normalize."""
    require_text(text)
    characters, places, end = _collapse(text)
    if unicodedata.is_normalized("NFC", "".join(characters)):
        return Normalized("".join(characters), (*places, end))
    return _compose(characters, places, end)


def is_blank(text: str) -> bool:
    """Whether normalize(text) is empty: nothing but white space and dropped characters."""
    return not _DROPPED.sub("", text).strip()


def require_text(text: str) -> None:
    """Raise InvalidTextError if text holds a lone surrogate (which no encoding of Unicode can carry)."""
    found = None if text.isascii() else _SURROGATE.search(text)
    if found:
        raise InvalidTextError(
            f"the text holds a lone surrogate U+{ord(found.group()):04X} at character {found.start()}; "
            "a character outside the basic plane is one code point or a whole surrogate pair"
        )


def _collapse(text: str) -> tuple[list[str], list[int], int]:
    """The characters of text without controls and surplus white space, their places, and the end of the last one."""
    characters: list[str] = []
    places: list[int] = []
    end, space = 0, -1
    for place, character in enumerate(text):
        if character.isspace():
            space = place if space < 0 else space
        elif not _DROPPED.match(character):
            if space >= 0 and characters:
                characters.append(" ")
                places.append(space)
            space = -1
            characters.append(SPACE_MARK_SUBSTITUTE if character == SPACE_MARK else character)
            places.append(place)
            end = place + 1
    return characters, places, end


def _compose(characters: list[str], places: list[int], end: int) -> Normalized:
    """NFC cluster by cluster, where a cluster is a character and all that may compose with it."""
    composed: list[str] = []
    offsets: list[int] = []
    start = 0
    for stop in range(1, len(characters) + 1):
        if stop < len(characters) and not _begins_cluster(characters[stop]):
            continue
        cluster = unicodedata.normalize("NFC", "".join(characters[start:stop]))
        composed.append(cluster)
        kept = cluster == "".join(characters[start:stop])
        offsets.extend(places[start:stop] if kept else [places[start]] * len(cluster))
        start = stop
    return Normalized("".join(composed), (*offsets, end))


def _begins_cluster(character: str) -> bool:
    if character < "\u0300":
        return True
    return not unicodedata.category(character).startswith("M") and not _COMPOSING_LETTERS.match(character)
