"""The translator gives segments as they finish, and asks the engine for them as the request wants it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import pytest
from engine_harness import Slowness, loaded, running, until

from app.catalogue import Catalogue
from app.engine import DeadlineError, Engine, Priority, SegmentJob, SegmentResult
from app.translator import SegmentTranslation, TranslationRequest, TranslationResponse, Translator
from model.checkpoint import Checkpoint
from model.config import LengthLimit
from model.search import Hypothesis

TEXT = " The river is wide.\n\nShe reads.  Can you see the other side? "


@pytest.fixture
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    """With short translations, so that tests do not take long."""
    found = loaded(tiny_checkpoint)
    limit = LengthLimit(ratio_mean=0.2, ratio_deviation=0.1, margin=3, cap=20)
    return found._replace(config=found.config.model_copy(update={"length_limit": limit}))


def asking(*texts: str, **fields: Any) -> TranslationRequest:
    return TranslationRequest(texts=texts, source="en", target="de", **fields)


class ScriptedEngine:
    """Notes how it is asked, and gives each job a translation of one piece, the last job first."""

    def __init__(self, failing: Exception | None = None) -> None:
        self.asked: dict[str, object] = {}
        self.given = 0
        self.closed = False
        self.queue_seconds, self.compute_seconds = 0.25, 0.5
        self._failing = failing
        self._left: list[int] = []

    def stream(self, name: str, jobs: Sequence[SegmentJob], deadline: float | None, **how: object) -> ScriptedEngine:
        self.asked, self._left = how, list(range(len(jobs)))
        return self

    def __aiter__(self) -> ScriptedEngine:
        return self

    async def __anext__(self) -> tuple[int, SegmentResult]:
        if not self._left:
            raise StopAsyncIteration
        if self._failing and self.given:
            raise self._failing
        self.given += 1
        return self._left.pop(), SegmentResult([Hypothesis([300], -1.0, -1.0)], [])

    async def aclose(self) -> None:
        self.closed = True


def translator(checkpoint: Checkpoint, engine: ScriptedEngine) -> Translator:
    return Translator(Catalogue.of([checkpoint]), cast(Engine, engine))


async def everything(translator: Translator, request: TranslationRequest) -> list[object]:
    return [event async for event in translator.stream(request)]


def test_segments_come_in_the_order_of_their_end_and_the_response_last(checkpoint: Checkpoint) -> None:
    *segments, response = asyncio.run(everything(translator(checkpoint, ScriptedEngine()), asking(TEXT, "Hold on!")))
    assert all(isinstance(segment, SegmentTranslation) for segment in segments)
    places = [(segment.text, segment.segment) for segment in cast(list[SegmentTranslation], segments)]
    assert places == [(1, 0), (0, 2), (0, 1), (0, 0)]
    assert isinstance(response, TranslationResponse)
    assert (response.queue_seconds, response.compute_seconds) == (0.25, 0.5)


def test_whoever_stops_reading_drops_what_is_left(checkpoint: Checkpoint) -> None:
    engine = ScriptedEngine()

    async def first_only() -> None:
        async with aclosing(translator(checkpoint, engine).stream(asking(TEXT))) as events:
            await anext(events)

    asyncio.run(first_only())
    assert engine.given == 1 and engine.closed


def test_what_goes_wrong_ends_the_stream(checkpoint: Checkpoint) -> None:
    engine = ScriptedEngine(failing=DeadlineError("too late"))
    with pytest.raises(DeadlineError):
        asyncio.run(everything(translator(checkpoint, engine), asking(TEXT)))
    assert engine.given == 1 and engine.closed


@pytest.mark.parametrize(
    ("texts", "fields", "expected"),
    [
        (1, {}, Priority.INTERACTIVE),
        (32, {}, Priority.INTERACTIVE),
        (33, {}, Priority.BULK),
        (33, {"priority": Priority.INTERACTIVE}, Priority.INTERACTIVE),
        (1, {"priority": Priority.BULK}, Priority.BULK),
    ],
)
def test_a_long_list_is_bulk_unless_it_says_otherwise(
    checkpoint: Checkpoint, texts: int, fields: dict[str, object], expected: Priority
) -> None:
    engine = ScriptedEngine()
    asyncio.run(translator(checkpoint, engine).translate(asking(*["Hold on!"] * texts, **fields)))
    assert engine.asked == {"priority": expected, "partial": False}


def test_a_segment_is_given_before_the_others_are_done(checkpoint: Checkpoint) -> None:
    async def conversation(engine: Engine) -> None:
        events = Translator(Catalogue.of([checkpoint]), engine).stream(
            asking(" ".join(f"Hold {number}!" for number in range(20)))
        )
        async with aclosing(events):
            assert isinstance(await anext(events), SegmentTranslation)
            assert engine.queued_tokens > 0

    with running(checkpoint, batch_rows=5) as engine:
        Slowness(checkpoint, 0.05)
        asyncio.run(conversation(engine))


def test_a_stream_that_is_closed_leaves_the_engine(checkpoint: Checkpoint) -> None:
    async def conversation(engine: Engine) -> None:
        events = Translator(Catalogue.of([checkpoint]), engine).stream(asking("Hold on! " * 40))
        async with aclosing(events):
            await anext(events)
        await until(lambda: engine.queued_tokens == 0 and engine.active_sentences == 0)

    with running(checkpoint, batch_rows=5) as engine:
        asyncio.run(conversation(engine))


def partly(checkpoint: Checkpoint, ask: Callable[[Translator], TranslationResponse]) -> TranslationResponse:
    """What a slow engine with room for one sentence at a time answers."""
    with running(checkpoint, batch_rows=5) as engine:
        Slowness(checkpoint, 0.1)
        return ask(Translator(Catalogue.of([checkpoint]), engine))


def test_at_the_deadline_a_partial_answer_is_what_there_is(checkpoint: Checkpoint) -> None:
    request = asking(TEXT * 20, deadline_seconds=2.0, partial=True)
    answer = partly(checkpoint, lambda slow: asyncio.run(slow.translate(request)))
    (translation,) = answer.translations
    assert translation.status == "partial"
    statuses = [item.status for item in translation.unfinished]
    assert "missing" in statuses
    assert len(translation.text) < len(TEXT * 20) and translation.text.count("\n\n") == 20


def test_without_leave_for_a_partial_answer_the_deadline_is_an_error(checkpoint: Checkpoint) -> None:
    with pytest.raises(DeadlineError):
        partly(checkpoint, lambda slow: asyncio.run(slow.translate(asking(TEXT * 20, deadline_seconds=2.0))))
