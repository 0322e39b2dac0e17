"""Models of a given shape with random weights, so that they can be told how long to go on, and what they cost."""

from __future__ import annotations

from typing import NamedTuple

import torch

from model.config import LengthLimit, ModelConfig
from model.seq2seq import Seq2Seq
from model.shortlist import Shortlist

REFERENCE = ModelConfig(  # what recipes have by default, at another size
    source_vocabulary=8000,
    target_vocabulary=8000,
    embedding=512,
    hidden=512,
    encoder_layers=2,
    decoder_layers=2,
    tied="all",
    lexical_shortcut=True,
    layer_norm=False,
    residual=False,
)
STRETCH = 1.2  # target pieces for each source piece, where lengths are forced
FORCED = LengthLimit(ratio_mean=STRETCH, ratio_deviation=0.0, margin=0)
TRANSLATIONS, ALWAYS = 20, 100  # of a shortlist: for each source piece, and the most frequent of all
MASKED = -1e9  # finite: an infinite score would end the search


class Operations(NamedTuple):
    """Multiplications and additions of the matrix products of a forward pass."""

    source: int  # for each source position
    target: int  # for each target position, of one hypothesis


def build(config: ModelConfig, seed: int = 1) -> Seq2Seq:
    """A model ready for inference, with random weights that depend on ``seed`` alone."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return Seq2Seq(config).eval().requires_grad_(False)


def force_lengths(model: Seq2Seq) -> None:
    """Mask end-of-sentence: every output is as long as the length limit allows, whatever the weights.

    With the limit :data:`FORCED` that is 1.2 times the source. Changes the bias of the output in place.
    """
    model.output_bias.data[model.config.eos] = MASKED


def zipf(count: int) -> list[float]:
    """How often the words of a text occur, relative to each other: 1 / rank (Zipf 1949)."""
    return [1 / rank for rank in range(1, count + 1)]


def shortlist(config: ModelConfig, seed: int = 1) -> Shortlist:
    """For a model with random weights: what each source piece may become is drawn, frequent pieces more often.

    Of the size that a learned one has, so that the union over a batch is as large as in earnest.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = torch.tensor(zipf(config.target_vocabulary))
    offsets = torch.arange(config.source_vocabulary + 1) * TRANSLATIONS
    drawn = weights.multinomial(int(offsets[-1]), replacement=True, generator=generator)
    parts = (offsets, drawn, torch.arange(min(ALWAYS, config.target_vocabulary)))
    return Shortlist(*(part.to(torch.int32) for part in parts))


def describe(config: ModelConfig) -> str:
    """The shape on one line."""
    choices = {
        "self-attention": config.self_attention,
        "lexical shortcut": config.lexical_shortcut,
        "input feeding": config.input_feeding,
        "layer norm": config.layer_norm,
        "residuals": config.residual,
    }
    return ", ".join(
        [
            f"{config.encoder_layers} + {config.decoder_layers} layers of {config.hidden}",
            f"embeddings {config.embedding}",
            f"vocabulary {config.target_vocabulary}",
            config.cell,
            f"{config.attention} attention",
            *(name for name, chosen in choices.items() if chosen),
        ]
    )


def operations(model: Seq2Seq) -> Operations:
    """Counted from the weights: each weight of a matrix is one multiplication and one addition a position."""
    keys = ("decoder.attention.key",)
    matrices = {name: weight.numel() for name, weight in model.named_parameters() if weight.dim() == 2}
    source = sum(size for name, size in matrices.items() if name.startswith(("encoder.", *keys)))
    decoder = sum(size for name, size in matrices.items() if name.startswith("decoder.") and not name.startswith(keys))
    return Operations(2 * source, 2 * (decoder + model.output_weight().numel()))
