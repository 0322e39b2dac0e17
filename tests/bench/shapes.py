"""Models of a given shape with random weights, and the operations that they cost."""

from __future__ import annotations

import argparse
from typing import NamedTuple

import torch

from model.config import ModelConfig
from model.seq2seq import Seq2Seq


class Operations(NamedTuple):
    """Multiplications and additions of the matrix products of a forward pass."""

    source: int  # for each source position
    target: int  # for each target position


def add_shape(parser: argparse.ArgumentParser) -> None:
    """Flags of the shape; the defaults are the reference shape: 2 + 2 layers of 512, joint vocabulary of 8,000."""
    parser.add_argument("--vocabulary", type=int, default=8000)
    parser.add_argument("--embedding", type=int, default=512)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=2, help="of the encoder, and of the decoder")
    parser.add_argument("--attention", default="multihead")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)


def build(arguments: argparse.Namespace) -> Seq2Seq:
    """The model that the flags describe, with random weights."""
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(1)
    config = ModelConfig(
        source_vocabulary=arguments.vocabulary,
        target_vocabulary=arguments.vocabulary,
        embedding=arguments.embedding,
        hidden=arguments.hidden,
        encoder_layers=arguments.layers,
        decoder_layers=arguments.layers,
        attention=arguments.attention,
    )
    return Seq2Seq(config)


def describe(model: Seq2Seq) -> str:
    """The shape on one line."""
    config = model.config
    size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    return (
        f"{config.encoder_layers} + {config.decoder_layers} layers of {config.hidden}, embeddings {config.embedding}, "
        f"vocabulary {config.target_vocabulary}, {config.attention} attention, {size:.1f} M parameters"
    )


def operations(model: Seq2Seq) -> Operations:
    """Counted from the weights: each weight of a matrix is one multiplication and one addition a position."""
    keys = ("decoder.attention.key",)
    matrices = {name: weight.numel() for name, weight in model.named_parameters() if weight.dim() == 2}
    source = sum(size for name, size in matrices.items() if name.startswith(("encoder.", *keys)))
    decoder = sum(size for name, size in matrices.items() if name.startswith("decoder.") and not name.startswith(keys))
    return Operations(2 * source, 2 * (decoder + model.output_weight().numel()))
