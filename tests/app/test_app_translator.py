"""The translator: texts in, texts out, with everything around and between their segments kept."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engine_harness import Slowness, fail_encoding_of, loaded, running
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.catalogue import Catalogue
from app.engine import DeadlineError, QueueFullError, SegmentFailedError
from app.passage import Passage
from app.translator import (
    BadTextError,
    DuplicatePairError,
    TextTooLargeError,
    TooManyTextsError,
    TranslationOptions,
    TranslationRequest,
    TranslationResponse,
    Translator,
    UnsupportedPairError,
)
from model.checkpoint import Checkpoint
from model.config import LengthLimit
from model.search import SearchOptions, translate
from tokenizer.subword import TokenizerPair

FERRY = "The river is wide and the ferry is slow."
DECK = "She reads a book on the deck."

Ask = Callable[..., TranslationResponse]


def short(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with short translations, so that tests do not take long."""
    limit = LengthLimit(ratio_mean=0.2, ratio_deviation=0.1, margin=3, cap=20)
    return checkpoint._replace(config=checkpoint.config.model_copy(update={"length_limit": limit}))


@pytest.fixture
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return short(loaded(tiny_checkpoint))


@pytest.fixture
def ask(checkpoint: Checkpoint) -> Iterator[Ask]:
    """Translate from English to German unless said otherwise, with small limits."""
    with running(checkpoint) as engine:
        translator = Translator(Catalogue.of([checkpoint]), engine, max_text_characters=6_000, max_texts=50)

        def call(*texts: str, source: str = "en", target: str = "de", **options: object) -> TranslationResponse:
            wanted = TranslationOptions(**options)  # type: ignore[arg-type]
            request = TranslationRequest(texts=texts, source=source, target=target, options=wanted)
            return asyncio.run(translator.translate(request))

        yield call


def by_hand(checkpoint: Checkpoint, tokenizers: TokenizerPair, segment: str) -> str:
    """A segment's translation without engine and translator."""
    ids = tokenizers.source.encode(segment)
    found = translate(checkpoint.model, [ids], SearchOptions(), checkpoint.config.length_limit)
    return tokenizers.target.decode(found[0][0].pieces)


def test_a_text_is_rebuilt_around_the_translations_of_its_segments(
    ask: Ask, checkpoint: Checkpoint, tiny_tokenizer: TokenizerPair
) -> None:
    ferry, deck = (by_hand(checkpoint, tiny_tokenizer, text) for text in (FERRY, DECK))
    answer = ask(f"\n\n  {FERRY}  {DECK}\r\n\r\n\t{FERRY}\n")
    assert answer.translations[0].text == f"\n\n  {ferry}  {deck}\r\n\r\n\t{ferry}\n"
    assert (answer.model, answer.version, answer.source, answer.target) == ("en-de", "0", "en", "de")
    assert answer.compute_seconds > 0 and answer.queue_seconds >= 0


def test_texts_come_back_in_order(ask: Ask, checkpoint: Checkpoint, tiny_tokenizer: TokenizerPair) -> None:
    texts = [FERRY, "", DECK, "Please hold on to the rail!", " ", FERRY]
    expected = [by_hand(checkpoint, tiny_tokenizer, text) if text.strip() else text for text in texts]
    assert [found.text for found in ask(*texts).translations] == expected


@pytest.mark.parametrize("blank", ["", " ", "\n\t \r\n", "\u3000\u2028", "\x00", "\ufeff "])
def test_blank_text_is_its_own_translation_without_work(tiny_checkpoint: Path, blank: str) -> None:
    checkpoint = loaded(tiny_checkpoint)
    with running(checkpoint) as engine:
        checkpoint.model.encode = None  # type: ignore[assignment, method-assign]
        options = TranslationOptions(n_best=3, scores=True, alignment=True)
        request = TranslationRequest(texts=(blank,), source="en", target="de", options=options)
        answer = asyncio.run(Translator(Catalogue.of([checkpoint]), engine).translate(request))
    assert answer.translations[0] == (blank, None, [], [], [])


def test_a_request_without_texts_has_an_empty_answer(ask: Ask) -> None:
    assert ask().translations == []


@pytest.mark.parametrize(
    "text", ["😀🏳️‍🌈 😀", "שלום עולם", "مرحبا بالعالم؟", "a" * 5_000, "水" * 700, "nul\x00nul", "e\u0301" * 200]
)
def test_unusual_text_is_translated(ask: Ask, text: str) -> None:
    assert ask(text, beam_size=1).translations[0].text != text


def test_a_word_that_is_too_long_for_the_model_is_cut_and_nothing_of_it_lost(tiny_tokenizer: TokenizerPair) -> None:
    word = "水" * 300
    passage = Passage.read(f" {word}.  ok ", "en", tiny_tokenizer.source, max_characters=200, max_pieces=64)
    assert passage.document.rebuild(passage.document.segments) == f" {word}.  ok "
    assert len(passage.pieces) == len(passage.document.segments) > 3
    assert max(map(len, passage.pieces)) <= 64


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=120), max_pieces=st.integers(4, 40))
def test_reading_loses_no_character(tiny_tokenizer: TokenizerPair, text: str, max_pieces: int) -> None:
    passage = Passage.read(text, "en", tiny_tokenizer.source, 30, max_pieces)
    assert passage.document.rebuild(passage.document.segments) == text
    assert all(0 < len(pieces) <= max_pieces or len(segment) == 1
               for pieces, segment in zip(passage.pieces, passage.document.segments, strict=True))  # fmt: skip


def test_the_n_best_are_the_text_and_its_alternatives(ask: Ask) -> None:
    best = ask(FERRY).translations[0]
    found = ask(FERRY, n_best=3, scores=True).translations[0]
    assert found.text == best.text and best.alternatives == [] and best.score is None
    scores = [found.score, *(item.score for item in found.alternatives)]
    assert len(scores) == 3
    assert all(a is not None and b is not None and a >= b for a, b in itertools.pairwise(scores))


def test_n_best_widens_a_beam_that_is_not_given_and_no_other(ask: Ask) -> None:
    assert len(ask(FERRY, n_best=7).translations[0].alternatives) == 6
    with pytest.raises(ValueError, match="n_best is 3; it must not exceed beam_size, which is 2"):
        ask(FERRY, n_best=3, beam_size=2)


def test_every_alternative_has_an_alignment_of_its_own(ask: Ask) -> None:
    found = ask(FERRY, n_best=3, alignment=True).translations[0]
    for other in (found, *found.alternatives):
        assert other.alignment is not None
        (segment,) = other.alignment
        assert len(segment.attention) == len(segment.target)
        assert segment.target[-1].end == len(other.text)


def test_alternatives_of_several_segments_are_joined_rank_by_rank(ask: Ask) -> None:
    whole = ask(f"{FERRY}\n{DECK}", n_best=2).translations[0]
    ferry, deck = (ask(text, n_best=2).translations[0] for text in (FERRY, DECK))
    assert whole.alternatives[0].text == f"{ferry.alternatives[0].text}\n{deck.alternatives[0].text}"


def test_the_score_is_the_mean_of_the_segments_weighted_by_target_pieces(
    checkpoint: Checkpoint, tiny_tokenizer: TokenizerPair, ask: Ask
) -> None:
    ids = [tiny_tokenizer.source.encode(text) for text in (FERRY, DECK)]
    found = translate(checkpoint.model, ids, SearchOptions(), checkpoint.config.length_limit)
    total = sum(best[0].log_probability for best in found)  # the default penalty divides by the number of pieces
    pieces = sum(len(best[0].pieces) + 1 for best in found)
    assert ask(f"{FERRY} {DECK}", scores=True).translations[0].score == pytest.approx(total / pieces, abs=1e-5)


def test_the_length_penalty_of_the_request_counts(ask: Ask) -> None:
    plain = ask(FERRY, scores=True, length_penalty=0.0, beam_size=1).translations[0]
    divided = ask(FERRY, scores=True, length_penalty=1.0, beam_size=1).translations[0]
    assert plain.text == divided.text
    assert plain.score is not None and divided.score is not None and plain.score < divided.score


def test_alignment_gives_spans_in_the_whole_text_and_in_the_whole_translation(ask: Ask) -> None:
    text = f" {FERRY}\n\n{DECK}"
    found = ask(text, alignment=True).translations[0]
    assert found.alignment is not None and len(found.alignment) == 2
    for segment, sentence in zip(found.alignment, (FERRY, DECK), strict=True):
        covered = "".join(text[piece.start : piece.end] for piece in segment.source)
        assert covered.replace(" ", "") == sentence.replace(" ", "")
        assert [len(row) for row in segment.attention] == [len(segment.source)] * len(segment.target)
        assert all(0 <= sum(row) <= 1.0001 for row in segment.attention)
    translated = [found.text[piece.start : piece.end] for part in found.alignment for piece in part.target]
    assert "".join("".join(translated).split()) == "".join(found.text.split())


def test_alignment_is_left_out_unless_asked_for(ask: Ask) -> None:
    assert ask(FERRY).translations[0].alignment is None


@pytest.mark.parametrize("tags", [("en", "de"), ("en-US", "de"), ("EN", "de-Latn-AT"), ("en-x-ferry", "DE-CH")])
def test_a_tag_is_served_by_that_of_its_base_language(ask: Ask, tags: tuple[str, str]) -> None:
    answer = ask(DECK, source=tags[0], target=tags[1])
    assert (answer.source, answer.target) == ("en", "de")


def test_an_exact_tag_goes_before_its_base_language(tiny_checkpoint: Path, tiny_checkpoint_fr: Path) -> None:
    base, other = short(loaded(tiny_checkpoint)), short(loaded(tiny_checkpoint_fr))
    swiss = other._replace(config=other.config.model_copy(update={"name": "swiss", "target": "de-CH"}))
    with running(base, swiss) as engine:
        translator = Translator(Catalogue.of([base, swiss]), engine)
        for target, name in (("de-ch", "swiss"), ("de-CH-1996", "swiss"), ("de-AT", "en-de"), ("de", "en-de")):
            request = TranslationRequest(texts=(DECK,), source="en", target=target)
            assert asyncio.run(translator.translate(request)).model == name


@pytest.mark.parametrize("tags", [("de", "en"), ("en", "fr"), ("", ""), ("eng", "de"), ("en_US", "de")])
def test_an_unsupported_pair_names_those_there_are(ask: Ask, tags: tuple[str, str]) -> None:
    with pytest.raises(UnsupportedPairError, match="the pairs there are: en-de") as caught:
        ask(DECK, source=tags[0], target=tags[1])
    assert [str(pair) for pair in caught.value.pairs] == ["en-de"]


def test_two_checkpoints_for_one_pair_are_refused(checkpoint: Checkpoint) -> None:
    other = checkpoint._replace(config=checkpoint.config.model_copy(update={"name": "other"}))
    with pytest.raises(DuplicatePairError, match=r"en-de \(en-de\), other \(en-de\)"):
        Catalogue.of([checkpoint, other])


def test_limits_are_named(ask: Ask) -> None:
    with pytest.raises(TextTooLargeError, match="text 1 has 6001 characters; at most 6000") as text:
        ask(DECK, "a" * 6_001)
    assert (text.value.text, text.value.characters, text.value.limit) == (1, 6_001, 6_000)
    with pytest.raises(TooManyTextsError, match="51 texts; at most 50") as texts:
        ask(*[DECK] * 51)
    assert (texts.value.texts, texts.value.limit) == (51, 50)


def test_a_lone_surrogate_is_refused_naming_its_text(ask: Ask) -> None:
    with pytest.raises(BadTextError, match="text 1") as caught:
        ask(DECK, "half \ud83d")
    assert caught.value.text == 1


def test_a_text_on_which_the_model_fails_is_named(
    checkpoint: Checkpoint, ask: Ask, tiny_tokenizer: TokenizerPair
) -> None:
    poison = (set(tiny_tokenizer.source.encode("Q")) - set(tiny_tokenizer.source.encode(f"{FERRY} {DECK}"))).pop()
    fail_encoding_of(checkpoint, poison)
    with pytest.raises(SegmentFailedError, match="text 2 could not be translated") as caught:
        ask(f"{FERRY} {DECK}", "", f"{DECK} Q", FERRY)
    assert caught.value.text == 2  # type: ignore[attr-defined]


def test_the_deadline_runs_from_the_request(checkpoint: Checkpoint) -> None:
    with running(checkpoint) as engine:
        Slowness(checkpoint, 0.05)
        request = TranslationRequest(texts=(FERRY,) * 5, source="en", target="de", deadline_seconds=0.1)
        began = time.monotonic()
        with pytest.raises(DeadlineError):
            asyncio.run(Translator(Catalogue.of([checkpoint]), engine).translate(request))
        assert time.monotonic() - began >= 0.1


def test_concurrent_texts_get_their_own_translations(checkpoint: Checkpoint, tiny_tokenizer: TokenizerPair) -> None:
    words = FERRY.split()
    texts = [" ".join(words[number % 4 : number % 4 + 1 + number % 5]) for number in range(20)]

    async def all_at_once(translator: Translator) -> list[TranslationResponse]:
        calls = (
            translator.translate(TranslationRequest(texts=(text, text[::-1]), source="en", target="de"))
            for text in texts
        )
        return await asyncio.gather(*calls)

    with running(checkpoint) as engine:
        answers = asyncio.run(all_at_once(Translator(Catalogue.of([checkpoint]), engine)))
    for text, answer in zip(texts, answers, strict=True):
        expected = [by_hand(checkpoint, tiny_tokenizer, item) for item in (text, text[::-1])]
        assert [item.text for item in answer.translations] == expected


def test_a_request_beyond_the_queue_is_refused_whole(checkpoint: Checkpoint, tiny_tokenizer: TokenizerPair) -> None:
    size = 4 * (len(tiny_tokenizer.source.encode(FERRY)) + 1)

    async def two(translator: Translator) -> list[TranslationResponse | BaseException]:
        calls = (translator.translate(TranslationRequest(texts=(FERRY,) * 4, source="en", target="de")) for _ in "ab")
        return await asyncio.gather(*calls, return_exceptions=True)

    with running(checkpoint, queue_tokens=2 * size - 1) as engine:
        Slowness(checkpoint, 0.01)
        first, second = asyncio.run(two(Translator(Catalogue.of([checkpoint]), engine)))
    assert isinstance(first, TranslationResponse) and isinstance(second, QueueFullError)
