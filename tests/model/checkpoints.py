"""A checkpoint of a tiny model, to be saved, broken and sealed anew."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from tiny_models import LIMIT, tiny_model

from model.checkpoint import CheckpointConfig, Provenance, save_checkpoint
from model.seq2seq import Seq2Seq

FILES = {"tokenizer.model": b"pieces of two languages", "README.md": b"# A card\n"}
PROVENANCE = Provenance(
    ferry_version="0",
    recipe="none.yaml",
    recipe_sha256="0" * 64,
    seed=1,
    steps=2,
    target_tokens=3,
    seconds=4.5,
    device="cpu",
    data=("made up",),
    licence="CC0-1.0",
)


def described(model: Seq2Seq, **fields: Any) -> CheckpointConfig:
    """The config of a checkpoint of ``model``."""
    names = {"name": "en-de", "version": "1", "source": "en", "target": "de", **fields}
    return CheckpointConfig(model=model.config, length_limit=LIMIT, training=PROVENANCE, **names)


def save(folder: Path, seed: int = 1, **fields: Any) -> Path:
    """Save a tiny model."""
    model = tiny_model(seed, dtype=torch.float32)
    save_checkpoint(folder, described(model, **fields), model.state_dict(), FILES)
    return folder


def reseal(folder: Path) -> None:
    """Make the hashes true again, so that what is wrong must be found behind them."""
    files = sorted(path for path in folder.iterdir() if path.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(lines))
