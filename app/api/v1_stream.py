"""The events of a streamed answer of /v1/translate, and how they are written."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Literal, TypeAlias

from fastapi import Request, Response
from fastapi.sse import format_sse_event
from pydantic import BaseModel, Field, RootModel

from app.api import handlers, problems
from app.api.disconnect import WatchedStream, unless_disconnected
from app.api.v1_answer import (
    ModelShape,
    SegmentStatusField,
    TimingsShape,
    TranslateAnswer,
    TranslationShape,
    answer_of,
)
from app.translator import SegmentTranslation, TranslationResponse

NDJSON = "application/x-ndjson"
EVENT_STREAM = "text/event-stream"
# Many clients cut lines at these too, which JSON leaves as they are.
LINE_ENDS = str.maketrans({character: f"\\u{ord(character):04x}" for character in "\x85\u2028\u2029"})

Event: TypeAlias = SegmentTranslation | TranslationResponse


class SegmentEvent(BaseModel):
    """A segment is translated. A text is ``before`` + ``translation`` + ``after`` of its segments in order."""

    event: Literal["segment"] = "segment"
    text: int = Field(description="Number of the text in the request, from 0.", examples=[0])
    segment: int = Field(description="Number of the segment in its text, from 0.", examples=[1])
    segments: int = Field(description="How many segments the text has.", examples=[2])
    start: int = Field(description="First character of the segment in the text.", examples=[14])
    end: int = Field(description="Character after its last.", examples=[31])
    before: str = Field(description="What stands in front of a text's first segment; otherwise empty.", examples=[""])
    translation: str | None = Field(description="Null if there is none: see status.", examples=["Bis morgen!"])
    after: str = Field(description="What stands between it and the next segment or the text's end.", examples=[""])
    score: float | None = Field(description="Null unless scores were asked for.", examples=[None])
    status: SegmentStatusField


class AnswerEvent(BaseModel):
    """The last event: the same answer as without streaming, with the n best, scores and alignment of whole texts."""

    event: Literal["answer"] = "answer"
    answer: TranslateAnswer


class ProblemEvent(BaseModel):
    """The last event if the translation fails after the first segment: the problem document."""

    event: Literal["problem"] = "problem"
    problem: problems.Problem


class StreamEvent(RootModel[Annotated[SegmentEvent | AnswerEvent | ProblemEvent, Field(discriminator="event")]]):
    """One line of `application/x-ndjson`, or the data of one event of `text/event-stream`."""


async def stream(request: Request, events: AsyncGenerator[Event], media_type: str) -> Response:
    """The response that writes ``events`` as they come.

    It begins with the first event: what goes wrong before is raised here, and answered with a status of its own.
    Raises ClientGoneError besides.
    """
    started = time.monotonic()
    first = await unless_disconnected(request, anext(events))
    return WatchedStream(_write(request, first, events, media_type, started), media_type)


def documented() -> dict[str, Any]:
    """The streamed answers of an operation for the OpenAPI document."""
    event = {"$ref": "#/components/schemas/StreamEvent"}
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": event}
    names = {"type": "string", "enum": ["segment", "answer", "problem"]}
    sse = {"type": "object", "properties": {"event": names, "data": data}, "required": ["event", "data"]}
    return {
        NDJSON: {"itemSchema": event, "example": "".join(_ndjson(item) for item in _examples())},
        EVENT_STREAM: {"itemSchema": sse, "example": "".join(_sse(item) for item in _examples())},
    }


async def _write(
    request: Request, first: Event, events: AsyncGenerator[Event], media_type: str, started: float
) -> AsyncGenerator[str]:
    encode = _ndjson if media_type == NDJSON else _sse
    try:
        yield encode(_event_of(first, started))
        async for event in events:
            yield encode(_event_of(event, started))
    except Exception as error:
        problem = handlers.problem_of(error)
        request.state.status = problem.kind.status
        yield encode(ProblemEvent(problem=problems.document(problem)))
    finally:
        await events.aclose()


def _event_of(event: Event, started: float) -> SegmentEvent | AnswerEvent:
    if isinstance(event, TranslationResponse):
        return AnswerEvent(answer=answer_of(event, time.monotonic() - started))
    return SegmentEvent(
        text=event.text,
        segment=event.segment,
        segments=event.segments,
        start=event.span.start,
        end=event.span.end,
        before=event.before,
        translation=event.translation,
        after=event.after,
        score=event.score,
        status=event.status,
    )


def _ndjson(event: SegmentEvent | AnswerEvent | ProblemEvent) -> str:
    return _json(event) + "\n"


def _sse(event: SegmentEvent | AnswerEvent | ProblemEvent) -> str:
    return format_sse_event(data_str=_json(event), event=event.event).decode()


def _json(event: SegmentEvent | AnswerEvent | ProblemEvent) -> str:
    return event.model_dump_json(exclude_none=isinstance(event, ProblemEvent)).translate(LINE_ENDS)


def _examples() -> list[SegmentEvent | AnswerEvent]:
    """The stream for a text of two sentences, of which the second is ready first."""
    first, second = "Guten Morgen.", "Bis morgen!"
    places = [(1, 14, 31, "", second, ""), (0, 0, 13, "", first, " ")]
    segments = [
        SegmentEvent(
            text=0,
            segment=number,
            segments=2,
            start=start,
            end=end,
            before=before,
            translation=translation,
            after=after,
            score=None,
            status="complete",
        )
        for number, start, end, before, translation, after in places
    ]
    whole = TranslationShape(
        text=f"{first} {second}", status="complete", unfinished=[], score=None, alternatives=[], alignment=None
    )
    model = ModelShape(name="en-de", version="1")
    answer = TranslateAnswer(
        translations=[whole],
        model=model,
        pivot=None,
        models=[model],
        source="en",
        target="de",
        timings=TimingsShape(queue_ms=0.4, compute_ms=41.2, total_ms=42.1),
    )
    return [*segments, AnswerEvent(answer=answer)]
