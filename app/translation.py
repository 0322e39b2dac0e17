"""What the translator is asked and what it answers."""

from __future__ import annotations

from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.engine.errors import SegmentFailedError
from app.engine.jobs import Priority
from tokenizer.subword import Piece

BULK_TEXTS = 32  # a list of more texts is bulk, unless it says otherwise


class TranslationOptions(BaseModel):
    """How to translate; what is None is taken from the checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    beam_size: int | None = Field(None, ge=1, description="Hypotheses kept at each step.")
    n_best: int = Field(1, ge=1, description="Translations to return; widens a beam that is not given.")
    length_penalty: float | None = Field(None, ge=0, le=5, description="Exponent of the length penalty.")
    alignment: bool = False
    scores: bool = False

    @model_validator(mode="after")
    def _beam_holds_n_best(self) -> TranslationOptions:
        if self.beam_size is not None and self.n_best > self.beam_size:
            raise ValueError(f"n_best is {self.n_best}; it must not exceed beam_size, which is {self.beam_size}")
        return self


class TranslationRequest(BaseModel):
    """Texts to translate together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    texts: tuple[str, ...]
    source: str = Field(description="BCP 47 tag.")
    target: str = Field(description="BCP 47 tag.")
    options: TranslationOptions = TranslationOptions()
    deadline_seconds: float | None = Field(None, gt=0, description="From now; None waits as long as it takes.")
    partial: bool = Field(False, description="Whether to take what there is at the deadline, or DeadlineError.")
    priority: Priority | None = Field(None, description="None: by the number of texts.")

    @property
    def urgency(self) -> Priority:
        """The priority it asked for, or else has."""
        if self.priority is not None:
            return self.priority
        return Priority.BULK if len(self.texts) > BULK_TEXTS else Priority.INTERACTIVE


SegmentStatus = Literal["complete", "partial", "missing"]
TextStatus = Literal["complete", "partial"]


class Span(NamedTuple):
    """A part of a text: its first character and the one after its last, in Unicode code points."""

    start: int
    end: int


class SegmentTranslation(NamedTuple):
    """One segment as soon as it is translated.

    A text is ``before``, ``translation`` and ``after`` of its segments in a row, in the order of their numbers; a text
    without segments, which is a blank one, stays as it is.
    """

    text: int  # number of the text in the request, from 0
    segment: int  # number of the segment in its text, from 0
    segments: int  # how many the text has
    span: Span  # of the segment in the source text
    before: str  # what stands in front of it: empty but for a text's first segment
    translation: str | None  # None if nothing was found before the deadline
    after: str  # what stands between it and the next segment, or the end of the text
    score: float | None  # length-normalised log-probability; None if no scores were asked for, or nothing was found
    status: SegmentStatus


class Unfinished(NamedTuple):
    """A segment that was not translated to its end before the deadline: partly, or not at all if it is missing."""

    segment: int
    span: Span  # in the source text
    status: Literal["partial", "missing"]


class Segment(NamedTuple):
    """How one segment was aligned. Spans are characters of the whole text and of the whole translation."""

    source: list[Piece]
    target: list[Piece]
    attention: list[list[float]]  # target x source; end-of-sentence left out on both sides, the rest as it was


class Alternative(NamedTuple):
    """Another translation of the whole text."""

    text: str
    score: float | None
    alignment: list[Segment] | None  # None if it was not asked for


class Translation(NamedTuple):
    """The translation of one text.

    ``score`` is the log-probability of the text's segments, each divided by its length penalty, as their mean weighted
    by target pieces (end-of-sentence counted). It is None if no scores were asked for or nothing was translated. In the
    place of a segment that is missing there is nothing, in alternatives and alignment too.
    """

    text: str
    score: float | None
    alternatives: list[Alternative]  # the n best but the first, best first
    alignment: list[Segment] | None  # None if it was not asked for
    unfinished: list[Unfinished]  # empty unless the request took partial answers and its deadline passed

    @property
    def status(self) -> TextStatus:
        """Whether every segment was translated to its end."""
        return "partial" if self.unfinished else "complete"


class TranslationResponse(NamedTuple):
    """A translation for each text, in order, and what made them."""

    translations: list[Translation]
    model: str
    version: str
    source: str  # the languages of the model, which may be broader than those asked for
    target: str
    queue_seconds: float
    compute_seconds: float
    pivot: str | None = None  # the language in between, where two models translated one after the other
    models: tuple[ModelVersion, ...] = ()  # all that took part, in turn; ``model`` is the last of them


class ModelVersion(NamedTuple):
    """A checkpoint by its name."""

    name: str
    version: str


class LanguagePair(NamedTuple):
    """Languages that a model translates between (BCP 47)."""

    source: str
    target: str
    model: str

    def __str__(self) -> str:
        return f"{self.source}-{self.target}"


class PivotedPair(NamedTuple):
    """Languages between which two models translate one after the other, by way of a third language."""

    first: LanguagePair
    second: LanguagePair

    @property
    def source(self) -> str:
        return self.first.source

    @property
    def target(self) -> str:
        return self.second.target

    @property
    def pivot(self) -> str:
        """The language in between, as the first model has it."""
        return self.first.target

    def __str__(self) -> str:
        return f"{self.source}-{self.target}"


class TranslationError(Exception):
    """Base of the errors that the translator raises for what it was asked."""


class UnsupportedPairError(TranslationError):
    """No model translates between these languages."""

    def __init__(self, source: str, target: str, pairs: tuple[LanguagePair | PivotedPair, ...]) -> None:
        known = ", ".join(map(str, pairs))
        super().__init__(f"no model translates from {source!r} to {target!r}; the pairs there are: {known}")
        self.source, self.target, self.pairs = source, target, pairs


class PivotOptionError(TranslationError):
    """An option was asked for that has no meaning across two models. ``option`` is a field of TranslationOptions."""

    def __init__(self, option: str, source: str, target: str, pivot: str) -> None:
        reason = f"needs a model from {source} to {target}; there is only the way through {pivot}, by two models"
        super().__init__(f"{option} {reason}")
        self.option, self.reason = option, reason


class TooManyTextsError(TranslationError):
    """The request has more texts than are allowed."""

    def __init__(self, texts: int, limit: int) -> None:
        super().__init__(f"the request has {texts} texts; at most {limit} are allowed: send them in several requests")
        self.texts, self.limit = texts, limit


class TextTooLargeError(TranslationError):
    """A text is longer than is allowed. ``text`` counts the request's texts from 0, ``limit`` is in characters."""

    def __init__(self, text: int, characters: int, limit: int) -> None:
        super().__init__(f"text {text} has {characters} characters; at most {limit} are allowed: cut it into parts")
        self.text, self.characters, self.limit = text, characters, limit


class BadTextError(TranslationError):
    """A text is not Unicode text. ``text`` counts the request's texts from 0."""

    def __init__(self, text: int, reason: str) -> None:
        super().__init__(f"text {text}: {reason}")
        self.text, self.reason = text, reason


class TextFailedError(SegmentFailedError):
    """The model failed on a text. ``text`` counts the request's texts from 0."""

    def __init__(self, text: int, cause: SegmentFailedError) -> None:
        super().__init__(cause.segment, cause.reason)
        self.args = (f"text {text} could not be translated: {cause.reason}",)
        self.text = text
