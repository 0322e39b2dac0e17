"""Splitting: sentences to translate, every other character kept, in linear time."""

from collections.abc import Callable

import pytest
import sentencex
from hypothesis import given
from hypothesis import strategies as st

from tokenizer.normalize import InvalidTextError, is_blank
from tokenizer.segment import WINDOW, split

ODD = [
    "\x00",
    "\u2028",
    "\u0964",
    "。",
    "?!",
    "...",
    "Dr. ",
    "z. B. ",
    "\r\n",
    "\n\n",
    "\u00a0",
    "\ufeff",
    "«",
    "»",
    '"',
    "(",
]
TEXTS = st.lists(st.sampled_from([*ODD, ". ", "word ", "Å"]) | st.text(max_size=5), max_size=30).map("".join)
LANGUAGES = st.sampled_from(["en", "de-AT", "fr", "bn", "zh-Hant", "ar", "am", "x-unknown", ""])

HOSTILE = {
    "word": "x" * 1_000_000,
    "sentences": "Hello there, world. How are you? " * 30_000,
    "full stops": "." * 1_000_000,
    "quotes": "«" * 1_000_000,
    "brackets": '"(' * 500_000,
    "lines": "a\n" * 100_000,
    "blank": " \n" * 500_000,
    "marks": "\u0301" * 1_000_000,
    "controls": "\x00" * 1_000_000,
    "right to left": "שלום עולם. מה שלומך? " * 40_000,
    "emoji": "👩\u200d🔬😀" * 200_000,
}


@given(TEXTS, LANGUAGES, st.integers(1, 40))
def test_nothing_is_lost_and_no_segment_is_blank_or_too_long(text: str, language: str, max_characters: int) -> None:
    document = split(text, language, max_characters=max_characters)
    assert document.rebuild(document.segments) == text
    assert len(document.separators) == len(document.segments) + 1
    assert all(is_blank(separator) for separator in document.separators)
    for segment in document.segments:
        assert 0 < len(segment) <= max_characters
        assert segment == segment.strip()
        assert not is_blank(segment)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_megabyte_goes_to_the_library_in_windows_and_at_most_twice(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_characters: list[int] = []
    segment: Callable[[str, str], list[str]] = sentencex.segment

    def counting(language: str, text: str) -> list[str]:
        given_characters.append(len(text))
        return segment(language, text)

    monkeypatch.setattr(sentencex, "segment", counting)
    text = HOSTILE[name]
    document = split(text, "en")
    assert document.rebuild(document.segments) == text
    assert max(given_characters, default=0) <= WINDOW
    assert sum(given_characters) <= 2 * len(text)


def test_paragraphs_and_outer_space_live_in_the_separators() -> None:
    text = "\n  Hello there.  How are you?\r\n\r\n\tFine, thanks!\nA title\nThe end. \n"
    document = split(text, "en")
    assert document.segments == ["Hello there.", "How are you?", "Fine, thanks!", "A title", "The end."]
    assert document.separators == ["\n  ", "  ", "\r\n\r\n\t", "\n", "\n", " \n"]
    assert document.rebuild(["1", "2", "3", "4", "5"]) == "\n  1  2\r\n\r\n\t3\n4\n5 \n"


@pytest.mark.parametrize(
    ("language", "text", "count"),
    [
        ("en", "Dr. Smith paid $3.50 at 5 p.m. on Jan. 3rd. Did he?", 2),
        ("de", "Dr. Müller kam am 3. Oktober z. B. um 17.30 Uhr. Wirklich? Ja!", 3),
        ("fr", "« Entrez ! » dit-elle. Il entra.", 2),
        ("zh-Hans", "今天天气很好。你去吗？", 2),  # noqa: RUF001
        ("hi", "यह एक वाक्य है। क्या यह सच है?", 2),
    ],
)
def test_sentences_end_where_the_language_ends_them(language: str, text: str, count: int) -> None:
    assert len(split(text, language).segments) == count


@pytest.mark.parametrize("text", ["", "   ", "\n\n", "\x00", "\ufeff \u00ad"])
def test_a_blank_text_has_no_segment(text: str) -> None:
    assert split(text, "en") == ([], [text])
    assert split(text, "en").rebuild([]) == text


def test_a_null_character_inside_a_sentence_stays() -> None:
    assert split("One\x00 two.", "en").segments == ["One\x00 two."]


def test_a_long_sentence_is_cut_behind_a_clause_then_behind_a_word_then_anywhere() -> None:
    assert split("one two three, four five six", "en", max_characters=20).segments == [
        "one two three,",
        "four five six",
    ]
    assert split("one, two three four five", "en", max_characters=20).segments == ["one, two three four", "five"]
    assert split("x" * 50, "en", max_characters=20).segments == ["x" * 20, "x" * 20, "x" * 10]


def test_a_hard_cut_spares_combined_characters() -> None:
    assert split("abce\u0301f", "en", max_characters=4).segments == ["abc", "e\u0301f"]
    assert split("ab👩\u200d🔬", "en", max_characters=4).segments == ["ab", "👩\u200d🔬"]


def test_a_sentence_across_two_windows_stays_whole() -> None:
    text = "This is a short sentence. " * 1_000
    assert set(split(text, "en").segments) == {"This is a short sentence."}


@pytest.mark.parametrize("answer", [["Hello", "you."], ["Hello. ", "You. "], []], ids=["less", "other", "none"])
def test_a_line_that_the_library_changes_is_one_segment(answer: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentencex, "segment", lambda language, text: answer)
    assert split("Hello. You.", "en").segments == ["Hello. You."]


def test_a_line_on_which_the_library_panics_is_one_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        pass

    def panic(language: str, text: str) -> list[str]:
        raise PanicException

    monkeypatch.setattr(sentencex, "segment", panic)
    assert split("Hello. You.", "en").segments == ["Hello. You."]


def test_an_interrupt_inside_the_library_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(language: str, text: str) -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(sentencex, "segment", interrupt)
    with pytest.raises(KeyboardInterrupt):
        split("Hello. You.", "en")


def test_too_few_translations_are_an_error() -> None:
    with pytest.raises(ValueError, match="1 translations were given for 2 segments"):
        split("Hello. You.", "en").rebuild(["Hallo."])


def test_a_lone_surrogate_is_an_error() -> None:
    with pytest.raises(InvalidTextError):
        split("a\udfff", "en")


def test_a_limit_below_one_character_is_an_error() -> None:
    with pytest.raises(ValueError, match="max_characters is 0"):
        split("a", "en", max_characters=0)
