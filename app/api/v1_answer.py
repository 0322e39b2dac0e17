"""What /v1/translate answers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from app.translator import Segment, Translation, TranslationResponse, Unfinished

SegmentStatusField = Annotated[
    Literal["complete", "partial", "missing"],
    Field(description="As in unfinished; always complete unless the request allowed partial answers."),
]


class PieceShape(BaseModel):
    piece: str = Field(examples=["▁station"])
    start: int = Field(description="First character in the whole text.", examples=[13])
    end: int = Field(description="Character after the last.", examples=[20])


class SegmentShape(BaseModel):
    """How one sentence was aligned."""

    source: list[PieceShape]
    target: list[PieceShape]
    attention: list[list[float]] = Field(
        description="A row for each target piece, a column for each source piece; end-of-sentence is left out and the"
        " rest is not normalised again.",
        examples=[[[0.9, 0.1], [0.2, 0.7]]],
    )


class AlternativeShape(BaseModel):
    text: str = Field(examples=["Wo ist die Station?"])
    score: float | None = Field(description="Null unless scores were asked for.", examples=[-0.61])
    alignment: list[SegmentShape] | None = Field(description="Null unless alignment was asked for.", examples=[None])


class UnfinishedShape(BaseModel):
    """A segment for which the time did not last, for a client to send again."""

    segment: int = Field(description="Number of the segment in its text, from 0.", examples=[2])
    start: int = Field(description="First character of the segment in the source text.", examples=[57])
    end: int = Field(description="Character after its last.", examples=[80])
    status: Literal["partial", "missing"] = Field(
        description="partial: the text has the best that was found, which may break off. missing: it has nothing there."
    )


class TranslationShape(BaseModel):
    text: str = Field(examples=["Wo ist der Bahnhof?"])
    status: Literal["complete", "partial"] = Field(
        description="partial only where the request allowed it and its deadline passed: see unfinished."
    )
    unfinished: list[UnfinishedShape] = Field(description="Segments not translated to their end.", examples=[[]])
    score: float | None = Field(description="Null unless scores were asked for.", examples=[-0.32])
    alternatives: list[AlternativeShape] = Field(description="The n best but the first, best first.")
    alignment: list[SegmentShape] | None = Field(description="Null unless alignment was asked for.", examples=[None])


class ModelShape(BaseModel):
    name: str = Field(examples=["en-de"])
    version: str = Field(examples=["1"])


class TimingsShape(BaseModel):
    """Milliseconds."""

    queue_ms: float = Field(description="Until the first sentence was admitted.", examples=[0.4])
    compute_ms: float = Field(description="From then until the last sentence was decided.", examples=[41.2])
    total_ms: float = Field(description="In the service altogether.", examples=[42.1])


class TranslateAnswer(BaseModel):
    translations: list[TranslationShape] = Field(description="One for each text, in order.")
    model: ModelShape = Field(description="That wrote the translation.")
    pivot: str | None = Field(
        description="Language in between: no model has the pair itself, so two translated one after the other.",
        examples=[None],
    )
    models: list[ModelShape] = Field(description="All models that took part, in turn: one, or two with a pivot.")
    source: str = Field(description="Of the model: en where en-US was asked for and only en is there.", examples=["en"])
    target: str = Field(examples=["de"])
    timings: TimingsShape


def answer_of(response: TranslationResponse, seconds: float) -> TranslateAnswer:
    return TranslateAnswer(
        translations=[_translation_of(translation) for translation in response.translations],
        model=ModelShape(name=response.model, version=response.version),
        pivot=response.pivot,
        models=[ModelShape(name=model.name, version=model.version) for model in response.models],
        source=response.source,
        target=response.target,
        timings=TimingsShape(
            queue_ms=round(response.queue_seconds * 1000, 3),
            compute_ms=round(response.compute_seconds * 1000, 3),
            total_ms=round(seconds * 1000, 3),
        ),
    )


def _translation_of(translation: Translation) -> TranslationShape:
    alternatives = [
        AlternativeShape(text=other.text, score=other.score, alignment=_alignment_of(other.alignment))
        for other in translation.alternatives
    ]
    return TranslationShape(
        text=translation.text,
        status=translation.status,
        unfinished=[_unfinished_of(segment) for segment in translation.unfinished],
        score=translation.score,
        alternatives=alternatives,
        alignment=_alignment_of(translation.alignment),
    )


def _unfinished_of(segment: Unfinished) -> UnfinishedShape:
    return UnfinishedShape(
        segment=segment.segment, start=segment.span.start, end=segment.span.end, status=segment.status
    )


def _alignment_of(segments: list[Segment] | None) -> list[SegmentShape] | None:
    return None if segments is None else [_segment_of(segment) for segment in segments]


def _segment_of(segment: Segment) -> SegmentShape:
    return SegmentShape(
        source=[PieceShape(piece=piece.text, start=piece.start, end=piece.end) for piece in segment.source],
        target=[PieceShape(piece=piece.text, start=piece.start, end=piece.end) for piece in segment.target],
        attention=segment.attention,
    )
