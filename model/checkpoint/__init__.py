"""The checkpoint: a folder of plain files, checked before it is used and written so that no half of one is ever read.

``config.json``, ``model.safetensors``, ``shortlist.safetensors`` where there is one, the tokenizer's files,
``README.md`` (the model card) and ``SHA256SUMS``, which lists every other file in the format of ``sha256sum``. No
pickle anywhere.
"""

from model.checkpoint.config import (
    CONFIG,
    DTYPES,
    FORMAT_VERSION,
    CheckpointConfig,
    Evaluation,
    Provenance,
    ShortlistSummary,
)
from model.checkpoint.errors import (
    CheckpointError,
    CheckpointFormatError,
    CheckpointHashError,
    CheckpointMismatchError,
    CheckpointMissingError,
    CheckpointVersionError,
)
from model.checkpoint.folder import SUMS, listed_files
from model.checkpoint.store import Checkpoint, load_checkpoint, read_config, save_checkpoint, verify_hashes
from model.checkpoint.tensors import SHORTLIST, WEIGHTS

__all__ = [
    "CONFIG",
    "DTYPES",
    "FORMAT_VERSION",
    "SHORTLIST",
    "SUMS",
    "WEIGHTS",
    "Checkpoint",
    "CheckpointConfig",
    "CheckpointError",
    "CheckpointFormatError",
    "CheckpointHashError",
    "CheckpointMismatchError",
    "CheckpointMissingError",
    "CheckpointVersionError",
    "Evaluation",
    "Provenance",
    "ShortlistSummary",
    "listed_files",
    "load_checkpoint",
    "read_config",
    "save_checkpoint",
    "verify_hashes",
]
