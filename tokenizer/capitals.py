"""Text that is all in capitals: for the model in small letters, and its translation in capitals again.

A model that learned from text as it is knows hardly a word in capitals: a tokenizer cuts them into their letters.
"""

from __future__ import annotations

_WORD = 2  # capitals of a word that counts; one alone may begin a sentence, or be an initial
_LONG = 7  # capitals of a single word that is taken for one; a shorter one may be an abbreviation, such as NATO


def in_capitals(text: str) -> bool:
    """Whether ``text`` has no small letter, and two words in capitals or a long one.

    False wherever there is no case, as in Chinese.
    """
    if not text.isupper():
        return False
    counts = [count for word in text.split() if (count := sum(map(str.isupper, word))) >= _WORD]
    return len(counts) > 1 or sum(counts) >= _LONG


def readable(text: str) -> str:
    """``text`` as a model knows it: of text in capitals all but the first in small letters; else as it is.

    It stays as long as it was, character by character, so that places in the one are places in the other.
    """
    if not in_capitals(text):
        return text
    first = next(place for place, character in enumerate(text) if character.isupper())
    return text[: first + 1] + "".join(map(_small, text[first + 1 :]))


def like(source: str, translation: str) -> str:
    """``translation`` in capitals if ``source`` is; it may grow, since the capital of ß is SS."""
    return translation.upper() if in_capitals(source) else translation


def _small(character: str) -> str:
    small = character.lower()
    return small if len(small) == 1 else character  # that of U+0130 is two characters
