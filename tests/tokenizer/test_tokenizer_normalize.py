"""Normalisation: one form of text, and the way back to the original's characters."""

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenizer.normalize import (
    InvalidTextError,
    is_blank,
    normalize,
    normalize_with_offsets,
)

ODD = st.sampled_from(
    ["\x00", "\t", "\r\n", "\u00a0", "\u2028", "\ufeff", "\u00ad", "\u2581", "e\u0301", "\u0323", " "]
)
HANGUL = st.sampled_from(["\u1112", "\u1161", "\u11ab", "\uac00"])
TEXTS = st.lists(ODD | HANGUL | st.text(max_size=5), max_size=20).map("".join)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("  a \t\r\n b\u00a0\u2003c\u2028", "a b c"),
        ("A\u0308pfel", "Äpfel"),
        ("a\x00b\x07c\x7fd\x85e", "abcd e"),
        ("\ufeffzu\u00adsammen", "zusammen"),
        ("e\x00\u0301", "é"),
        ("\u2581x", "_x"),
        ("👩\u200d🔬 \u0645\u06cc\u200c\u062e", "👩\u200d🔬 \u0645\u06cc\u200c\u062e"),
        ("ﬁ ２", "ﬁ ２"),  # noqa: RUF001 (compatibility characters are kept: NFC, not NFKC)
        ("", ""),
    ],
)
def test_normalize_examples(text: str, normal: str) -> None:
    assert normalize(text) == normal


@given(TEXTS)
def test_normalize_is_idempotent_composed_and_without_controls(text: str) -> None:
    normal = normalize(text)
    assert normalize(normal) == normal
    assert unicodedata.is_normalized("NFC", normal)
    assert not any(unicodedata.category(character) == "Cc" for character in normal)
    assert normal == " ".join(normal.split())


@given(TEXTS)
def test_offsets_agree_with_normalize_and_lie_inside_the_text(text: str) -> None:
    normal, offsets = normalize_with_offsets(text)
    assert normal == normalize(text)
    assert len(offsets) == len(normal) + 1
    assert list(offsets) == sorted(offsets)
    assert all(0 <= offset <= len(text) for offset in offsets)


@given(TEXTS)
def test_the_span_of_a_character_normalises_to_what_holds_it(text: str) -> None:
    normalized = normalize_with_offsets(text)
    for place, character in enumerate(normalized.text):
        start, end = normalized.span(place, place + 1)
        assert start < end
        assert character == " " or character in normalize(text[start:end])


def test_offsets_agree_for_every_pair_that_composes() -> None:
    pairs = [unicodedata.decomposition(chr(code)) for code in range(sys.maxunicode + 1)]
    decomposed = ["".join(chr(int(part, 16)) for part in pair.split()) for pair in pairs if pair and "<" not in pair]
    assert len(decomposed) > 1_000
    for text in decomposed:
        assert normalize_with_offsets(f"x{text}x").text == normalize(f"x{text}x")


def test_offsets_point_at_the_first_character_of_a_cluster() -> None:
    assert normalize_with_offsets(" A\u0308b \x00 c\n") == ("Äb c", (1, 3, 4, 7, 8))


@pytest.mark.parametrize("function", [normalize, normalize_with_offsets])
def test_a_lone_surrogate_is_an_error_naming_its_place(function: object) -> None:
    assert callable(function)
    with pytest.raises(InvalidTextError, match=r"U\+D83D at character 2"):
        function("ab\ud83dc")


@given(TEXTS)
def test_blank_is_what_normalises_to_nothing(text: str) -> None:
    assert is_blank(text) == (normalize(text) == "")
