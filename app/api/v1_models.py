"""What /v1/languages and /v1/models answer."""

from __future__ import annotations

from pydantic import BaseModel, Field

from model.checkpoint import Checkpoint, Evaluation
from model.config import LengthPenalty


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


def model_of(checkpoint: Checkpoint) -> LoadedModelShape:
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
