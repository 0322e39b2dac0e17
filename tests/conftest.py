"""What every room's tests share: a tiny tokenizer and tiny checkpoints with random weights."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Tiny models gain nothing from a second thread, and lose much where threads outnumber free cores. Set before torch is
# imported, and for the commands that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from model.checkpoint import CheckpointConfig, Provenance, save_checkpoint
from model.config import LengthLimit, ModelConfig
from model.seq2seq import Seq2Seq
from tokenizer.subword import TokenizerPair, train_subword

ENGLISH = [
    "The river is wide and the ferry is slow.",
    "We cross the water every morning.",
    "She reads a book on the deck.",
    "Can you see the other side?",
    "The captain drinks his coffee, then we leave.",
    "Two children run to the harbour.",
    "It will rain tomorrow, I think.",
    "Please hold on to the rail!",
]
GERMAN = [
    "Der Fluss ist breit und die Fähre ist langsam.",
    "Wir überqueren jeden Morgen das Wasser.",
    "Sie liest ein Buch auf dem Deck.",
    "Kannst du die andere Seite sehen?",
    "Der Kapitän trinkt seinen Kaffee, dann fahren wir ab.",
    "Zwei Kinder rennen zum Hafen.",
    "Ich glaube, morgen wird es regnen.",
    "Bitte halten Sie sich am Geländer fest!",
]


@pytest.fixture(scope="session")
def tiny_tokenizer() -> TokenizerPair:
    """A joint unigram vocabulary of 380 pieces."""
    subword = train_subword(ENGLISH + GERMAN, model_type="unigram", vocabulary_size=380)
    return TokenizerPair(subword, subword)


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_tokenizer: TokenizerPair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint en-de with random weights."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "en-de", tiny_tokenizer, "en", "de")


@pytest.fixture(scope="session")
def tiny_checkpoint_fr(tiny_tokenizer: TokenizerPair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint en-fr with other random weights."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "en-fr", tiny_tokenizer, "en", "fr", seed=2)


def write_checkpoint(folder: Path, tokenizers: TokenizerPair, source: str, target: str, seed: int = 1) -> Path:
    """Save a random model of hidden width 32 for the given vocabulary."""
    size = tokenizers.source.vocabulary_size
    config = ModelConfig(source_vocabulary=size, target_vocabulary=size, embedding=32, hidden=32)
    generator_state = torch.get_rng_state()
    torch.manual_seed(seed)
    model = Seq2Seq(config)
    torch.set_rng_state(generator_state)
    provenance = Provenance(
        ferry_version="0.0.0",
        recipe="tests/conftest.py",
        recipe_sha256="0" * 64,
        seed=seed,
        steps=0,
        target_tokens=0,
        seconds=0.0,
        device="cpu",
        data=("none: random weights",),
        licence="CC0-1.0",
    )
    checkpoint = CheckpointConfig(
        name=f"{source}-{target}",
        version="0",
        source=source,
        target=target,
        model=config,
        length_limit=LengthLimit(ratio_mean=1.0, ratio_deviation=0.2, cap=60),
        training=provenance,
    )
    save_checkpoint(folder, checkpoint, model.state_dict(), {**tokenizers.files(), "README.md": b"# Random weights\n"})
    return folder
