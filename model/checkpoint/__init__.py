"""The checkpoint: a folder of plain files, checked before it is used and written so that no half of one is ever read.

``config.json``, ``model.safetensors``, ``shortlist.safetensors`` where there is one, the tokenizer's files,
``README.md`` (the model card) and ``SHA256SUMS``, which lists every other file in the format of ``sha256sum``. No
pickle anywhere.
"""

from model.checkpoint.config import (
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
from model.checkpoint.folder import SUMS
from model.checkpoint.store import Checkpoint, load_checkpoint, read_config, save_checkpoint, verify_hashes

__all__ = [
    "DTYPES",
    "FORMAT_VERSION",
    "SUMS",
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
    "load_checkpoint",
    "read_config",
    "save_checkpoint",
    "verify_hashes",
]
