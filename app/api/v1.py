"""The first dialect of the API, under /v1: wire shapes to requests and back, and no logic of translating."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag

from app.api import problems
from app.api.disconnect import unless_disconnected
from app.service import Service, ServiceDependency
from app.translator import Segment, Translation, TranslationOptions, TranslationRequest, TranslationResponse
from model.checkpoint import Checkpoint, Evaluation
from model.config import LengthPenalty
from tokenizer.normalize import require_text

router = APIRouter(prefix="/v1", tags=["translation"])


def _whole(text: str) -> str:
    """JSON can spell half a surrogate pair, and Python would keep it."""
    require_text(text)
    return text


Text = Annotated[str, AfterValidator(_whole)]
Texts = Annotated[
    Annotated[Text, Tag("one text")] | Annotated[list[Text], Field(min_length=1, fail_fast=True), Tag("list of texts")],
    Discriminator(lambda value: "list of texts" if isinstance(value, list) else "one text"),
]


class TranslateBody(BaseModel):
    """What to translate and how."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {"text": "Where is the station?", "source": "en", "target": "de"},
                {
                    "text": ["Good morning.", "See you tomorrow!"],
                    "source": "en",
                    "target": "de",
                    "n_best": 3,
                    "scores": True,
                    "deadline_ms": 5000,
                },
            ]
        },
    )

    text: Texts = Field(description="A text, or a list of texts; each is split into sentences and put together again.")
    source: Text = Field(description="Language of the text (BCP 47).", examples=["en"])
    target: Text = Field(description="Language to translate into (BCP 47).", examples=["de"])
    beam_size: int | None = Field(None, ge=1, description="Hypotheses kept at each step; default of the checkpoint.")
    n_best: int = Field(1, ge=1, description="Translations to return for a text, at most the beam size.")
    length_penalty: float | None = Field(
        None, ge=0, le=5, allow_inf_nan=False, description="Exponent of the length penalty; default of the checkpoint."
    )
    scores: bool = Field(False, description="Return the length-normalised log-probability of each translation.")
    alignment: bool = Field(False, description="Return pieces, their character spans and the attention between them.")
    deadline_ms: int | None = Field(None, ge=1, description="Give up with 504 after this time; default of the service.")


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


class TranslationShape(BaseModel):
    text: str = Field(examples=["Wo ist der Bahnhof?"])
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
    model: ModelShape
    source: str = Field(description="Of the model: en where en-US was asked for and only en is there.", examples=["en"])
    target: str = Field(examples=["de"])
    timings: TimingsShape


class PairShape(BaseModel):
    source: str = Field(examples=["en"])
    target: str = Field(examples=["de"])
    model: str = Field(examples=["en-de"])


class LanguagesAnswer(BaseModel):
    pairs: list[PairShape]


class LoadedModelShape(BaseModel):
    """A checkpoint as it is served."""

    name: str = Field(examples=["en-de"])
    version: str = Field(examples=["1"])
    source: str = Field(examples=["en"])
    target: str = Field(examples=["de"])
    parameters: int = Field(description="Weights of the model.", examples=[7_000_000])
    beam_size: int = Field(description="Used where a request names none.", examples=[5])
    length_penalty: LengthPenalty = Field(description="Used where a request names none.")
    precision: str = Field(description="Of the weights in the checkpoint.", examples=["float16"])
    licence: str = Field(examples=["CC-BY-2.0-FR"])
    evaluations: list[Evaluation] = Field(description="Scores, with the sacreBLEU signatures that define them.")


class ModelsAnswer(BaseModel):
    models: list[LoadedModelShape]


@router.post(
    "/translate",
    summary="Translate texts",
    responses=problems.documented(400, 404, 413, 415, 422, 429, 500, 503, 504),
)
async def translate(
    body: TranslateBody, request: Request, response: Response, service: ServiceDependency
) -> TranslateAnswer:
    """Translate a text or a list of texts; the translations come in the same order."""
    started = time.monotonic()
    answer = await unless_disconnected(request, service.translate(_request_of(body, service)))
    response.headers["Content-Language"] = answer.target
    return _answer_of(answer, time.monotonic() - started)


@router.get("/languages", summary="List language pairs")
async def languages(service: ServiceDependency) -> LanguagesAnswer:
    """The pairs that can be translated, and the model of each."""
    configs = [checkpoint.config for checkpoint in service.checkpoints]
    return LanguagesAnswer(pairs=[PairShape(source=c.source, target=c.target, model=c.name) for c in configs])


@router.get("/models", summary="List models")
async def models(service: ServiceDependency) -> ModelsAnswer:
    """The loaded checkpoints: sizes, defaults of the search, licence and measured scores."""
    return ModelsAnswer(models=[_model_of(checkpoint) for checkpoint in service.checkpoints])


def _request_of(body: TranslateBody, service: Service) -> TranslationRequest:
    """The request in the translator's terms. Raises ProblemError for what the service's limits forbid."""
    settings = service.settings
    if (body.beam_size or 1) > settings.max_beam_size:
        raise problems.invalid("beam_size", f"must be at most {settings.max_beam_size}, got {body.beam_size}")
    if body.n_best > (body.beam_size or settings.max_beam_size):
        raise problems.invalid(
            "n_best", f"must be at most the beam size, {body.beam_size or settings.max_beam_size}, got {body.n_best}"
        )
    if (body.deadline_ms or 1) > settings.deadline_ms:
        raise problems.invalid("deadline_ms", f"must be at most {settings.deadline_ms}, got {body.deadline_ms}")
    return TranslationRequest(
        texts=(body.text,) if isinstance(body.text, str) else tuple(body.text),
        source=body.source,
        target=body.target,
        options=TranslationOptions(
            beam_size=body.beam_size,
            n_best=body.n_best,
            length_penalty=body.length_penalty,
            alignment=body.alignment,
            scores=body.scores,
        ),
        deadline_seconds=(body.deadline_ms or settings.deadline_ms) / 1000,
    )


def _answer_of(response: TranslationResponse, seconds: float) -> TranslateAnswer:
    return TranslateAnswer(
        translations=[_translation_of(translation) for translation in response.translations],
        model=ModelShape(name=response.model, version=response.version),
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
        score=translation.score,
        alternatives=alternatives,
        alignment=_alignment_of(translation.alignment),
    )


def _alignment_of(segments: list[Segment] | None) -> list[SegmentShape] | None:
    return None if segments is None else [_segment_of(segment) for segment in segments]


def _segment_of(segment: Segment) -> SegmentShape:
    return SegmentShape(
        source=[PieceShape(piece=piece.text, start=piece.start, end=piece.end) for piece in segment.source],
        target=[PieceShape(piece=piece.text, start=piece.start, end=piece.end) for piece in segment.target],
        attention=segment.attention,
    )


def _model_of(checkpoint: Checkpoint) -> LoadedModelShape:
    config = checkpoint.config
    return LoadedModelShape(
        name=config.name,
        version=config.version,
        source=config.source,
        target=config.target,
        parameters=sum(weight.numel() for weight in checkpoint.model.parameters()),
        beam_size=config.beam_size,
        length_penalty=config.length_penalty,
        precision=config.precision,
        licence=config.training.licence,
        evaluations=list(config.evaluations),
    )
