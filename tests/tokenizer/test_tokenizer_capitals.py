"""Text in capitals is told from abbreviations, read in small letters place by place, and answered in capitals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenizer.capitals import in_capitals, like, readable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("WHERE IS THE STATION?", "Where is the station?"),
        ("NO ENTRY", "No entry"),
        ("WARNING!", "Warning!"),
        ("3 ÄPFEL, 2 ÖFEN", "3 Äpfel, 2 öfen"),
        ("«ПРИВЕТ, МИР»", "«Привет, мир»"),
        ("BUS 42 TO İZMİR", "Bus 42 to İzmİr"),  # a small letter of two characters would move what follows
        ("E\u0301COLE FERME\u0301E", "E\u0301cole ferme\u0301e"),
    ],
)
def test_text_in_capitals_is_read_in_small_letters(text: str, expected: str) -> None:
    assert readable(text) == expected
    assert like(text, "ein Fluß") == "EIN FLUSS"


@pytest.mark.parametrize(
    "text", ["", "42!", "I", "A B C", "NATO", "USA!", "T. S. ELIOT", "The BBC", "WHERE is IT?", "水は水", "Ǆ"]
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert not in_capitals(text)
    assert readable(text) == text
    assert like(text, "ein Fluß") == "ein Fluß"


@given(st.text())
def test_places_stay_places_and_nothing_but_case_changes(text: str) -> None:
    read = readable(text)
    assert len(read) == len(text)
    assert all(new in (old, old.lower()) for old, new in zip(text, read, strict=True))
