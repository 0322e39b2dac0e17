"""``config.json`` of a checkpoint: what the model is, how it is to be searched, where it comes from, how good it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, ValidationError

from model.checkpoint.errors import CheckpointFormatError, CheckpointVersionError
from model.config import Frozen, LengthLimit, LengthPenalty, ModelConfig

FORMAT_VERSION = 1
CONFIG = "config.json"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Evaluation(Frozen):
    """Scores of one test set, with the sacreBLEU signatures that make them comparable."""

    data: str
    split: str
    sentences: int
    beam_size: int
    bleu: float
    bleu_lc: float
    chrf2: float
    ter: float
    signatures: dict[str, str]


class Provenance(Frozen):
    """Where a checkpoint comes from."""

    ferry_version: str
    recipe: str
    recipe_sha256: str
    seed: int
    steps: int
    target_tokens: int
    seconds: float
    device: str
    data: tuple[str, ...]
    licence: str


class ShortlistSummary(Frozen):
    """What the checkpoint's shortlist was made of."""

    size: int = Field(ge=1, description="Most translations kept of a source piece.")
    frequent: int = Field(ge=0, description="So many of the most frequent target pieces are allowed everywhere.")
    pairs: int = Field(ge=1, description="Pairs of the text that it was learned from.")
    data: tuple[str, ...] = Field(description="That text.")


class CheckpointConfig(Frozen):
    """The content of ``config.json``."""

    format_version: int = FORMAT_VERSION
    name: str
    version: str
    source: str = Field(description="BCP 47 tag of the source language.")
    target: str = Field(description="BCP 47 tag of the target language.")
    precision: Literal["float32", "float16", "bfloat16"] = Field(default="float32", description="Of the weights.")
    model: ModelConfig
    beam_size: int = Field(default=5, ge=1)
    length_penalty: LengthPenalty = LengthPenalty()
    length_limit: LengthLimit
    training: Provenance
    evaluations: tuple[Evaluation, ...] = ()
    shortlist: ShortlistSummary | None = None


def parse_config(path: Path) -> CheckpointConfig:
    """The config in ``path``. Raises CheckpointFormatError or CheckpointVersionError."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise CheckpointFormatError(f"{path} is not JSON: {error}") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if not isinstance(version, int):
        raise CheckpointFormatError(f"{path} has no format_version; it is not the config.json of a Ferry checkpoint")
    if version != FORMAT_VERSION:
        remedy = "upgrade ferry" if version > FORMAT_VERSION else "export the checkpoint again"
        raise CheckpointVersionError(f"{path} has format {version}; this version reads {FORMAT_VERSION}: {remedy}")
    try:
        return CheckpointConfig.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CheckpointFormatError(f"{path}: {where or 'content'}: {first['msg']}") from error
