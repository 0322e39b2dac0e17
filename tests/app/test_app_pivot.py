"""Translating through a third language, with two models one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from engine_harness import Gate, Slowness, loaded, running
from service_harness import running as service

from app.catalogue import Catalogue
from app.engine import (
    DeadlineError,
    Engine,
    Priority,
    QueueFullError,
    RequestTooLargeError,
    SegmentFailedError,
    SegmentJob,
    SegmentResult,
)
from app.passage import Passage
from app.pivot import Leg, Limits, PivotStream
from app.translator import (
    PivotOptionError,
    SegmentTranslation,
    TranslationOptions,
    TranslationRequest,
    TranslationResponse,
    Translator,
)
from model.checkpoint import Checkpoint
from model.config import LengthLimit
from model.search import SearchOptions, translate
from tests.conftest import write_checkpoint
from tokenizer.subword import TokenizerPair

SLOW, CALM = "Der Fluss ist breit.", "Sie liest ein Buch auf dem Deck."


def short(folder: Path) -> Checkpoint:
    """A model of the test's own, whose translations are short."""
    checkpoint = loaded(folder)
    limit = LengthLimit(ratio_mean=0.3, ratio_deviation=0.1, margin=3, cap=20)
    return checkpoint._replace(config=checkpoint.config.model_copy(update={"length_limit": limit}))


class Chain(NamedTuple):
    """A running engine with German to English and English to French."""

    first: Checkpoint
    second: Checkpoint
    engine: Engine

    @property
    def translator(self) -> Translator:
        return Translator(Catalogue.of([self.first, self.second], pivot=True), self.engine)

    def ask(self, *texts: str, **settings: object) -> TranslationResponse:
        return asyncio.run(self.translator.translate(asking(*texts, **settings)))


def asking(*texts: str, **settings: object) -> TranslationRequest:
    return TranslationRequest(texts=texts, source="de", target="fr", **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tiny_checkpoint_back(tiny_tokenizer: TokenizerPair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("back") / "de-en", tiny_tokenizer, "de", "en", seed=3)


@pytest.fixture
def chain(tiny_checkpoint_back: Path, tiny_checkpoint_fr: Path) -> Iterator[Chain]:
    first, second = short(tiny_checkpoint_back), short(tiny_checkpoint_fr)
    with running(first, second) as engine:
        yield Chain(first, second, engine)


def by_hand(checkpoint: Checkpoint, tokenizers: TokenizerPair, text: str) -> str:
    found = translate(
        checkpoint.model, [tokenizers.source.encode(text)], SearchOptions(), checkpoint.config.length_limit
    )
    return tokenizers.target.decode(found[0][0].pieces)


def test_what_the_first_model_translates_the_second_translates_on(chain: Chain, tiny_tokenizer: TokenizerPair) -> None:
    halves = [by_hand(chain.first, tiny_tokenizer, text) for text in (SLOW, CALM)]
    wholes = [by_hand(chain.second, tiny_tokenizer, half) for half in halves]
    answer = chain.ask(f" {SLOW}\n\n{CALM}", "", CALM)
    assert [item.text for item in answer.translations] == [f" {wholes[0]}\n\n{wholes[1]}", "", wholes[1]]


def test_the_answer_says_which_way_it_went(chain: Chain) -> None:
    answer = chain.ask(SLOW)
    assert (answer.source, answer.pivot, answer.target) == ("de", "en", "fr")
    assert [model.name for model in answer.models] == ["de-en", "en-fr"]
    assert (answer.model, answer.version) == ("en-fr", "0")
    assert answer.compute_seconds > 0


def test_a_pair_with_a_model_of_its_own_has_no_pivot(chain: Chain) -> None:
    answer = asyncio.run(chain.translator.translate(TranslationRequest(texts=(SLOW,), source="de", target="en")))
    assert answer.pivot is None and [model.name for model in answer.models] == ["de-en"]


@pytest.mark.parametrize("option", ["n_best", "alignment", "scores"])
def test_what_two_models_cannot_give_together_is_refused(chain: Chain, option: str) -> None:
    options = TranslationOptions.model_validate({option: 2 if option == "n_best" else True})
    with pytest.raises(PivotOptionError, match=f"{option} needs a model from de to fr; .* through en") as caught:
        chain.ask(SLOW, options=options)
    assert caught.value.option == option


def test_segments_come_with_their_places_in_the_text_that_was_sent(chain: Chain) -> None:
    text = f"{SLOW} {CALM}"

    async def events() -> list[SegmentTranslation | TranslationResponse]:
        return [event async for event in chain.translator.stream(asking(text))]

    *segments, answer = asyncio.run(events())
    parts = {}
    for segment in segments:
        assert isinstance(segment, SegmentTranslation)
        parts[text[slice(*segment.span)]] = segment
    assert set(parts) == {SLOW, CALM}
    assert isinstance(answer, TranslationResponse)
    rebuilt = "".join(f"{parts[key].before}{parts[key].translation}{parts[key].after}" for key in (SLOW, CALM))
    assert rebuilt == answer.translations[0].text


def test_the_deadline_holds_for_both_models_together(chain: Chain) -> None:
    Slowness(chain.second, 0.5)
    with pytest.raises(DeadlineError):
        chain.ask(SLOW, deadline_seconds=0.4)


def test_a_partial_answer_says_so_whichever_model_was_cut_short(chain: Chain) -> None:
    Slowness(chain.second, 0.5)
    (found,) = chain.ask(SLOW, deadline_seconds=0.4, partial=True).translations
    assert found.status == "partial"


def test_a_text_on_which_the_second_model_fails_is_named(chain: Chain) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("poison")

    chain.second.model.encode = broken  # type: ignore[assignment, method-assign]
    with pytest.raises(SegmentFailedError, match="text 1 could not be translated"):
        chain.ask("", f"{SLOW} {CALM}")


def test_the_api_marks_pairs_and_answers_that_take_two_models(
    tiny_checkpoint_back: Path, tiny_checkpoint_fr: Path
) -> None:
    body = {"text": SLOW, "source": "de", "target": "fr"}
    with service(checkpoints=(tiny_checkpoint_back, tiny_checkpoint_fr)) as client:
        pairs = {f"{pair['source']}-{pair['target']}": pair for pair in client.get("/v1/languages").json()["pairs"]}
        answer = client.post("/v1/translate", json=body).json()
        refused = client.post("/v1/translate", json={**body, "scores": True})
    assert pairs["de-en"]["pivot"] is None
    assert (pairs["de-fr"]["pivot"], pairs["de-fr"]["models"]) == ("en", ["de-en", "en-fr"])
    assert (answer["pivot"], [model["name"] for model in answer["models"]]) == ("en", ["de-en", "en-fr"])
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "scores")


def test_without_pivoting_the_pair_is_not_there(tiny_checkpoint_back: Path, tiny_checkpoint_fr: Path) -> None:
    with service(checkpoints=(tiny_checkpoint_back, tiny_checkpoint_fr), pivot=False) as client:
        answer = client.post("/v1/translate", json={"text": SLOW, "source": "de", "target": "fr"})
    assert (answer.status_code, answer.json()["pairs"]) == (404, ["de-en", "en-fr"])


def test_a_half_too_long_for_the_second_model_is_cut_and_put_together_again(
    chain: Chain, tiny_tokenizer: TokenizerPair
) -> None:
    half = by_hand(chain.first, tiny_tokenizer, CALM)
    parts = Passage.read(half, "en", tiny_tokenizer.source, 100, 3).pieces
    assert len(parts) > 1
    limit = chain.second.config.length_limit
    wholes = [translate(chain.second.model, [part], SearchOptions(), limit)[0][0].pieces for part in parts]

    async def result() -> SegmentResult:
        first, second = (
            Leg(model.pair.model, model.facts, SearchOptions()) for model in chain.translator.catalogue.models
        )
        job = SegmentJob(tuple(tiny_tokenizer.source.encode(CALM)), first.options)
        stream = PivotStream(
            chain.engine, (first, second), [job], None, Limits(100, 3), priority=Priority.INTERACTIVE, partial=False
        )
        ((_, found),) = [answer async for answer in stream]
        return found

    assert asyncio.run(result()).hypotheses[0].pieces == tuple(piece for whole in wholes for piece in whole)


def test_a_segment_goes_on_while_the_first_model_is_busy_with_others(chain: Chain) -> None:
    first_model = Gate(chain.first)
    Slowness(chain.first, 0.01)
    texts = [" ".join([CALM.removesuffix(".")] * 12), "Ja"]

    async def finished() -> list[tuple[int, int]]:
        """For each segment, its text, and the steps that the first model had taken when it came."""
        return [
            (event.text, first_model.steps)
            async for event in chain.translator.stream(asking(*texts))
            if isinstance(event, SegmentTranslation)
        ]

    (text, steps), *_ = asyncio.run(finished())
    assert text == 1 and steps < first_model.steps


def test_both_models_are_admitted_together_and_the_second_is_never_refused(chain: Chain) -> None:
    """The queue is full of others when the first model is done, and what was admitted is translated all the same."""
    Slowness(chain.first, 0.02)

    async def crowd() -> tuple[TranslationResponse, int]:
        pivoted = asyncio.create_task(chain.translator.translate(asking(SLOW)))
        await asyncio.sleep(0)
        refused = 0
        others = []
        job = SegmentJob((5, 6, 7), SearchOptions(1))
        while not refused:
            try:
                others.append(chain.engine.stream("en-fr", [job], None))
            except QueueFullError:
                refused += 1
        answer = await pivoted
        for stream in others:
            stream.close()
        return answer, refused

    alone = chain.ask(SLOW)
    answer, refused = asyncio.run(crowd())
    assert refused and answer.translations == alone.translations


def test_a_request_too_large_for_both_models_together_is_refused_at_once(chain: Chain) -> None:
    many = " ".join([SLOW] * 200)
    with pytest.raises(RequestTooLargeError):
        chain.ask(*[many] * 40)


def test_stopping_the_engine_waits_for_the_second_model(tiny_checkpoint_back: Path, tiny_checkpoint_fr: Path) -> None:
    first, second = short(tiny_checkpoint_back), short(tiny_checkpoint_fr)
    Slowness(first, 0.05)
    with running(first, second) as engine:
        chain = Chain(first, second, engine)

        async def stopped() -> TranslationResponse:
            answer = asyncio.create_task(chain.translator.translate(asking(SLOW)))
            await asyncio.sleep(0.1)
            await asyncio.to_thread(engine.stop, 30.0)
            return await answer

        assert asyncio.run(stopped()).translations[0].status == "complete"
