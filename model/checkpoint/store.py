"""Loading and saving a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from safetensors.torch import save as save_tensors
from torch import Tensor

from model.checkpoint.config import CONFIG, CheckpointConfig, parse_config
from model.checkpoint.errors import CheckpointMismatchError
from model.checkpoint.folder import require_replaceable, verify_folder, write_folder
from model.checkpoint.tensors import (
    SHORTLIST,
    WEIGHTS,
    read_model,
    read_shortlist,
    require_fitting,
    stored_weights,
)
from model.seq2seq import Seq2Seq
from model.shortlist import Shortlist


class Checkpoint(NamedTuple):
    """A loaded checkpoint; the model is in evaluation mode, float32, the shortlist on its device."""

    folder: Path
    config: CheckpointConfig
    model: Seq2Seq
    shortlist: Shortlist | None = None


def load_checkpoint(folder: Path, device: str = "cpu") -> Checkpoint:
    """Check and load a checkpoint; raises a :class:`CheckpointError` that names the file at fault."""
    config = read_config(folder)
    shortlist = read_shortlist(folder / SHORTLIST, config)
    model = read_model(folder / WEIGHTS, config, device)
    return Checkpoint(folder, config, model, shortlist and shortlist.to(device))


def read_config(folder: Path) -> CheckpointConfig:
    """Check every hash, then read ``config.json``; raises a :class:`CheckpointError` that names the file at fault."""
    verify_hashes(folder)
    return parse_config(folder / CONFIG)


def verify_hashes(folder: Path) -> None:
    """Compare every file with ``SHA256SUMS``; a file that is missing, altered or not listed is an error."""
    verify_folder(folder, required=(CONFIG, WEIGHTS))


def save_checkpoint(
    folder: Path,
    config: CheckpointConfig,
    weights: Mapping[str, Tensor],
    files: Mapping[str, bytes],
    shortlist: Shortlist | None = None,
) -> None:
    """Write a checkpoint; ``files`` are the tokenizer's and ``README.md``, by name.

    ``weights`` are a state dict of the model that ``config`` describes, stored in ``config.precision``; others, or a
    shortlist that ``config`` does not speak of or that is not for its vocabularies, are a CheckpointMismatchError.
    Everything is written to a temporary sibling, flushed to disk and renamed; an older checkpoint at ``folder`` is
    replaced, and stays whole if writing fails (OSError, for instance a full disk). A folder that holds something else
    is not replaced (CheckpointError).
    """
    folder = folder.resolve()
    require_replaceable(folder)
    contents = {
        CONFIG: (config.model_dump_json(indent=2) + "\n").encode(),
        WEIGHTS: save_tensors(stored_weights(folder / WEIGHTS, config, weights)),
        **_shortlist_file(folder / SHORTLIST, config, shortlist),
        **files,
    }
    write_folder(folder, contents)


def _shortlist_file(path: Path, config: CheckpointConfig, shortlist: Shortlist | None) -> dict[str, bytes]:
    if (shortlist is None) != (config.shortlist is None):
        raise CheckpointMismatchError(
            f"{path}: a shortlist and its entry in {CONFIG} go together; one of them is missing"
        )
    if shortlist is None:
        return {}
    require_fitting(path, shortlist, config)
    return {
        path.name: save_tensors({name: tensor.contiguous() for name, tensor in shortlist.to("cpu")._asdict().items()})
    }
