"""The shape of a model, from the flags of a measurement; the defaults are those of ``ferry bench --reference``."""

from __future__ import annotations

import argparse

import torch

from app.bench import shape
from app.bench.shape import REFERENCE, operations
from model.config import ModelConfig
from model.seq2seq import Seq2Seq

__all__ = ["add_shape", "build", "describe", "operations"]


def add_shape(parser: argparse.ArgumentParser) -> None:
    """Flags of the shape; the defaults are the reference shape: 2 + 2 layers of 512, joint vocabulary of 8,000."""
    parser.add_argument("--vocabulary", type=int, default=REFERENCE.target_vocabulary)
    parser.add_argument("--embedding", type=int, default=REFERENCE.embedding)
    parser.add_argument("--hidden", type=int, default=REFERENCE.hidden)
    parser.add_argument(
        "--layers", type=int, default=REFERENCE.decoder_layers, help="of the encoder, and of the decoder"
    )
    parser.add_argument("--attention", default=REFERENCE.attention)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)


def build(arguments: argparse.Namespace) -> Seq2Seq:
    """The model that the flags describe, with random weights."""
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(1)
    sizes = {
        "source_vocabulary": arguments.vocabulary,
        "target_vocabulary": arguments.vocabulary,
        "embedding": arguments.embedding,
        "hidden": arguments.hidden,
        "encoder_layers": arguments.layers,
        "decoder_layers": arguments.layers,
        "attention": arguments.attention,
    }
    return Seq2Seq(ModelConfig.model_validate(REFERENCE.model_dump() | sizes))


def describe(model: Seq2Seq) -> str:
    """The shape on one line."""
    size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    return f"{shape.describe(model.config)}, {size:.1f} M parameters"
