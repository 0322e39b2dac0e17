"""What /v1/languages and /v1/models answer."""

from __future__ import annotations

from pydantic import BaseModel, Field

from app.languages import LanguagePairs
from app.served import ServedModel
from model.checkpoint import Evaluation
from model.config import LengthPenalty


class PairShape(BaseModel):
    source: str = Field(examples=["en"])
    target: str = Field(examples=["de"])
    model: str = Field(description="The model that writes the translation.", examples=["en-de"])
    pivot: str | None = Field(description="Language in between, where it takes two models.", examples=[None])
    models: list[str] = Field(description="The models in turn: one, or two with the pivot between them.")


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
    serving_precision: str = Field(description="In which this service computes.", examples=["int8"])
    loaded: bool = Field(description="False while it is out of memory because nobody used it; the next request waits.")
    licence: str = Field(examples=["CC-BY-2.0-FR"])
    evaluations: list[Evaluation] = Field(description="Scores, with the sacreBLEU signatures that define them.")


class ModelsAnswer(BaseModel):
    models: list[LoadedModelShape]


def languages_of(languages: LanguagePairs) -> LanguagesAnswer:
    """The pairs of one model first, then those of two."""
    direct = [
        PairShape(source=pair.source, target=pair.target, model=pair.model, pivot=None, models=[pair.model])
        for pair in languages.pairs
    ]
    pivoted = [
        PairShape(
            source=pair.source,
            target=pair.target,
            model=pair.second.model,
            pivot=pair.pivot,
            models=[pair.first.model, pair.second.model],
        )
        for pair in languages.pivoted
    ]
    return LanguagesAnswer(pairs=[*direct, *pivoted])


def model_of(model: ServedModel) -> LoadedModelShape:
    facts, config = model.facts, model.facts.config
    return LoadedModelShape(
        name=config.name,
        version=config.version,
        source=config.source,
        target=config.target,
        parameters=facts.parameters,
        beam_size=config.beam_size,
        length_penalty=config.length_penalty,
        precision=config.precision,
        serving_precision=facts.precision,
        loaded=model.loaded,
        licence=config.training.licence,
        evaluations=list(config.evaluations),
    )
