"""Texts put together from the results of their segments: in any order, and with some of them cut short or missing."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.assembly import Assembly
from app.engine import SegmentResult
from app.passage import Passage
from app.translation import Segment, Span, TranslationOptions, Unfinished
from model.search import Annotation, Hypothesis
from tokenizer.subword import TokenizerPair

TEXT = " She reads.\n\nWe leave.  Hold on! "
MISSING = SegmentResult([], [], complete=False)


def assembly(tokenizers: TokenizerPair, *texts: str, **options: object) -> Assembly:
    passages = [Passage.read(text, "en", tokenizers.source, 500, 128) for text in texts]
    return Assembly(passages, tokenizers, TranslationOptions(**options))  # type: ignore[arg-type]


def found(tokenizers: TokenizerPair, *texts: str, score: float = -1.0, complete: bool = True) -> SegmentResult:
    """A result with these translations, each with an annotation that attends to nothing."""
    pieces = [tokenizers.target.encode(text) for text in texts]
    annotations = [Annotation([], [[0.0]] * (len(item) + 1)) for item in pieces]
    return SegmentResult([Hypothesis(item, score, score) for item in pieces], annotations, complete)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(st.sampled_from("ab. \n\u2028?!"), max_size=40), max_size=4), data=st.data())
def test_segments_in_any_order_make_their_texts(
    tiny_tokenizer: TokenizerPair, texts: list[str], data: st.DataObject
) -> None:
    parts = assembly(tiny_tokenizer, *texts)
    numbers = list(range(len(list(parts.pieces))))
    for number in data.draw(st.permutations(numbers)):
        parts.add(number, found(tiny_tokenizer, f"x{number}"))
    events = [parts.segment(number) for number in numbers]
    for number, (text, translation) in enumerate(zip(texts, parts.translations(), strict=True)):
        own = sorted((event for event in events if event.text == number), key=lambda event: event.segment)
        assert [event.segment for event in own] == list(range(len(own)))
        assert all(event.segments == len(own) for event in own)
        assert translation.text == ("".join(f"{e.before}{e.translation}{e.after}" for e in own) if own else text)
        assert text == ("".join(f"{e.before}{text[e.span.start : e.span.end]}{e.after}" for e in own) if own else text)


def test_a_segment_in_capitals_is_read_in_small_letters_and_answered_in_capitals(tiny_tokenizer: TokenizerPair) -> None:
    parts = assembly(tiny_tokenizer, "SHE READS.  We leave.", alignment=True)
    assert list(parts.pieces) == [tiny_tokenizer.source.encode(text) for text in ("She reads.", "We leave.")]
    parts.add(0, found(tiny_tokenizer, "Sie liest groß.", "Nur sie"))
    parts.add(1, found(tiny_tokenizer, "Wir gehen."))
    assert parts.segment(0).translation == "SIE LIEST GROSS."
    (translation,) = parts.translations()
    assert translation.text == "SIE LIEST GROSS.  Wir gehen."
    assert [other.text for other in translation.alternatives] == ["NUR SIE  Wir gehen."]
    assert translation.alignment is not None
    loud, quiet = translation.alignment
    for text, pieces in (("SHE READS.  We leave.", loud.source), (translation.text, loud.target + quiet.target)):
        whole = [piece for piece in pieces if not piece.text.startswith("<0x") and piece.text != "▁"]
        assert len(whole) > 3
        assert [text[piece.start : piece.end].upper() for piece in whole] == [
            piece.text.removeprefix("▁").upper() for piece in whole
        ]
    sharp = [translation.text[piece.start : piece.end] for piece in loud.target if piece.text.startswith("<0x")]
    assert sharp == ["SS", "SS"]  # its two bytes


def test_what_is_cut_short_or_missing_is_listed(tiny_tokenizer: TokenizerPair) -> None:
    parts = assembly(tiny_tokenizer, TEXT, scores=True)
    results = [found(tiny_tokenizer, "Sie liest."), found(tiny_tokenizer, "Wir", score=-3.0, complete=False), MISSING]
    for number, result in enumerate(results):
        parts.add(number, result)
    events = [parts.segment(number) for number in range(3)]
    assert [event.status for event in events] == ["complete", "partial", "missing"]
    assert [event.translation for event in events] == ["Sie liest.", "Wir", None]
    assert [event.score for event in events] == [-1.0, -3.0, None]
    (translation,) = parts.translations()
    assert translation.text == " Sie liest.\n\nWir   "
    assert translation.unfinished == [Unfinished(1, Span(13, 22), "partial"), Unfinished(2, Span(24, 32), "missing")]
    assert [TEXT[item.span.start : item.span.end] for item in translation.unfinished] == ["We leave.", "Hold on!"]


@pytest.mark.parametrize(("complete", "status"), [(True, "complete"), (False, "partial")])
def test_a_text_is_complete_when_all_of_its_segments_are(
    tiny_tokenizer: TokenizerPair, complete: bool, status: str
) -> None:
    parts = assembly(tiny_tokenizer, "She reads. We leave.", "Hold on!")
    for number in (0, 1):
        parts.add(number, found(tiny_tokenizer, "x", complete=complete))
    parts.add(2, found(tiny_tokenizer, "y"))
    assert [translation.status for translation in parts.translations()] == [status, "complete"]


def test_a_missing_segment_counts_for_no_score(tiny_tokenizer: TokenizerPair) -> None:
    parts = assembly(tiny_tokenizer, "She reads. We leave.", scores=True)
    parts.add(0, found(tiny_tokenizer, "Sie liest.", score=-2.0))
    parts.add(1, MISSING)
    assert parts.translations()[0].score == -2.0


def test_of_a_text_that_was_not_begun_only_the_white_space_is_left(tiny_tokenizer: TokenizerPair) -> None:
    parts = assembly(tiny_tokenizer, TEXT, scores=True, alignment=True)
    for number in range(3):
        parts.add(number, MISSING)
    (translation,) = parts.translations()
    assert (translation.text, translation.score, translation.alternatives) == (" \n\n   ", None, [])
    assert [item.status for item in translation.unfinished] == ["missing"] * 3


def test_a_missing_segment_leaves_the_others_their_alternatives_and_alignment(tiny_tokenizer: TokenizerPair) -> None:
    parts = assembly(tiny_tokenizer, "She reads. We leave.", n_best=2, alignment=True)
    parts.add(0, MISSING)
    parts.add(1, found(tiny_tokenizer, "Wir gehen.", "Wir fahren."))
    (translation,) = parts.translations()
    (other,) = translation.alternatives
    assert (translation.text, other.text) == (" Wir gehen.", " Wir fahren.")
    for alignment in (translation.alignment, other.alignment):
        assert alignment is not None
        missing, aligned = alignment
        assert missing.source and missing == Segment(missing.source, [], [])
        assert aligned.target[0].start >= 1 and aligned.source[0].start >= 10
