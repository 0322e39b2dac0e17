"""What /v1/translate is asked, and the limits of the service on it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag

from app.api import problems
from app.engine import Priority
from app.settings import Settings
from app.translation import BULK_TEXTS
from app.translator import TranslationOptions, TranslationRequest
from tokenizer.normalize import require_text


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
                    "partial": True,
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
    deadline_ms: int | None = Field(
        None, ge=1, description="Time for the whole request, then see partial; default of the service. Milliseconds."
    )
    partial: bool = Field(
        False,
        description="When the time is over, answer with what there is: what is not translated to its end is listed in"
        " unfinished. Otherwise 504.",
    )
    priority: Literal["interactive", "bulk"] | None = Field(
        None,
        description="bulk lets what somebody waits for go first, and is not forgotten either. Without it, lists of"
        f" more than {BULK_TEXTS} texts are bulk, all else is interactive.",
    )


def request_of(body: TranslateBody, settings: Settings) -> TranslationRequest:
    """The request in the translator's terms. Raises ProblemError for what the service's limits forbid."""
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
        partial=body.partial,
        priority=None if body.priority is None else Priority[body.priority.upper()],
    )
