"""What a model is: its sizes and choices, and the rules of length that its search obeys."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Frozen(BaseModel):
    """Base of every configuration: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelConfig(Frozen):
    """Everything needed to build a :class:`model.seq2seq.Seq2Seq` before its weights are known."""

    source_vocabulary: int = Field(gt=4, le=2**24, description="Pieces in the source vocabulary, reserved included.")
    target_vocabulary: int = Field(gt=4, le=2**24, description="Pieces in the target vocabulary, reserved included.")
    embedding: int = Field(default=256, gt=0, le=2**16, description="Width of the embeddings.")
    hidden: int = Field(default=256, gt=0, le=2**16, description="Width of a layer; half for an encoder direction.")
    encoder_layers: int = Field(default=2, ge=1, le=16)
    decoder_layers: int = Field(default=2, ge=1, le=16, description="The bottom layer queries the attention.")
    cell: Literal["rnn", "gru", "lstm", "peephole_lstm", "layernorm_lstm", "ssru"] = Field(
        default="lstm", description="Of every recurrent layer, in the encoder and in the decoder."
    )
    attention: Literal["additive", "general", "dot", "multihead"] = "multihead"
    heads: int = Field(default=4, ge=1, description="Heads of multi-head and self-attention; others have one.")
    self_attention: bool = Field(default=False, description="A self-attention layer over the encoder's outputs.")
    lexical_shortcut: bool = Field(default=False, description="Add a map of the embeddings to the encoder's outputs.")
    input_feeding: bool = Field(default=False, description="Feed the attentional output back: slow.")
    tied: Literal["none", "target", "all"] = Field(
        default="all", description="The output shares the target's embeddings, or all share one."
    )
    layer_norm: bool = Field(default=True, description="Normalise every layer's output.")
    residual: bool = Field(default=True, description="Add a layer's input to its output where the widths agree.")
    dropout: float = Field(default=0.2, ge=0, lt=1, description="Between layers; one mask over all time steps.")
    embedding_dropout: float = Field(default=0.2, ge=0, lt=1, description="On embeddings; one mask over all steps.")
    recurrent_dropout: float = Field(
        default=0.0, ge=0, lt=1, description="On the weights from hidden to hidden; one mask over all steps."
    )
    word_dropout: float = Field(default=0.0, ge=0, lt=1, description="Share of pieces zeroed in training.")
    pad: int = Field(default=0, ge=0)
    unk: int = Field(default=1, ge=0)
    bos: int = Field(default=2, ge=0)
    eos: int = Field(default=3, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> ModelConfig:
        if self.hidden % 2:
            raise ValueError(f"hidden is {self.hidden}; it must be even, half of it for each encoder direction")
        if (self.attention == "multihead" or self.self_attention) and self.hidden % self.heads:
            raise ValueError(f"hidden ({self.hidden}) must be a multiple of heads ({self.heads})")
        if self.cell == "ssru" and self.recurrent_dropout:
            raise ValueError("ssru has no recurrent weights to drop; set recurrent_dropout to 0 or choose another cell")
        if self.tied == "all" and self.source_vocabulary != self.target_vocabulary:
            raise ValueError("tied: all needs a joint vocabulary; use tied: target with separate ones")
        if len({self.pad, self.unk, self.bos, self.eos}) != 4:
            raise ValueError("pad, unk, bos and eos must be four different ids")
        if max(self.pad, self.unk, self.bos, self.eos) >= min(self.source_vocabulary, self.target_vocabulary):
            raise ValueError("pad, unk, bos and eos must lie inside both vocabularies")
        return self


class LengthLimit(Frozen):
    """How long a translation may grow, learned from the training pairs.

    ``limit = min(cap, ceil((ratio_mean + deviations * ratio_deviation) * source_length) + margin)`` where the ratio is
    target pieces over source pieces, both without end-of-sentence.
    """

    ratio_mean: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    ratio_deviation: float = Field(default=0.25, ge=0, allow_inf_nan=False)
    deviations: float = Field(default=3.0, ge=0, allow_inf_nan=False)
    margin: int = Field(default=5, ge=0, description="Pieces allowed beyond the ratio: short sentences vary most.")
    cap: int = Field(default=256, gt=0, description="Hard limit in pieces.")

    def limit(self, source_length: int) -> int:
        """Longest allowed target in pieces, end-of-sentence not counted, for a source of ``source_length`` pieces."""
        ratio = self.ratio_mean + self.deviations * self.ratio_deviation
        return min(self.cap, math.ceil(ratio * source_length) + self.margin)


class LengthPenalty(Frozen):
    """Divisor that makes scores of different lengths comparable: ``score = log P(y|x) / penalty(|y|)``.

    ``|y|`` counts pieces and the end-of-sentence. ``power`` is ``|y|^alpha``; ``gnmt`` is ``((5 + |y|) / 6)^alpha``
    (Wu et al. 2016, equation 14); ``none`` is 1.
    """

    kind: Literal["power", "gnmt", "none"] = "power"
    alpha: float = Field(default=1.0, ge=0, le=5, allow_inf_nan=False)

    def penalty(self, length: int) -> float:
        """The divisor for a hypothesis of ``length`` pieces, end-of-sentence included; never falls as it grows."""
        if self.kind == "none":
            return 1.0
        base = length if self.kind == "power" else (5 + length) / 6
        return float(base**self.alpha)
