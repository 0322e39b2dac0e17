"""The checkpoint: a folder of plain files, checked before it is used and written so that no half of one is ever read.

``config.json``, ``model.safetensors``, the tokenizer's files, ``README.md`` (the model card) and ``SHA256SUMS``, which
lists every other file in the format of ``sha256sum``. No pickle anywhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from model.config import Frozen, LengthLimit, LengthPenalty, ModelConfig
from model.seq2seq import Seq2Seq

FORMAT_VERSION = 1
CONFIG, WEIGHTS, SUMS = "config.json", "model.safetensors", "SHA256SUMS"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class CheckpointError(Exception):
    """A checkpoint cannot be used; the message names the file and what would be right."""


class CheckpointMissingError(CheckpointError):
    """The folder or one of its files is not there."""


class CheckpointHashError(CheckpointError):
    """A file's content is not what SHA256SUMS says: truncated, altered, or foreign."""


class CheckpointVersionError(CheckpointError):
    """The checkpoint was written in a format that this version does not read."""


class CheckpointFormatError(CheckpointError):
    """A file is not of its format."""


class CheckpointMismatchError(CheckpointError):
    """The weights are not those of the model that config.json describes."""


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


class Checkpoint(NamedTuple):
    """A loaded checkpoint; the model is in evaluation mode, float32."""

    folder: Path
    config: CheckpointConfig
    model: Seq2Seq


def load_checkpoint(folder: Path, device: str = "cpu") -> Checkpoint:
    """Check and load a checkpoint; raises a :class:`CheckpointError` that names the file at fault."""
    config = read_config(folder)
    path = folder / WEIGHTS
    model, weights = _skeleton(config), _read_weights(path)
    _require_match(path, weights, model, DTYPES[config.precision])
    model.load_state_dict({name: tensor.to(device, torch.float32) for name, tensor in weights.items()}, assign=True)
    return Checkpoint(folder, config, model.eval().requires_grad_(False))


def read_config(folder: Path) -> CheckpointConfig:
    """Check every hash, then read ``config.json``; raises a :class:`CheckpointError` that names the file at fault."""
    verify_hashes(folder)
    path = folder / CONFIG
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


def verify_hashes(folder: Path) -> None:
    """Compare every file with ``SHA256SUMS``; a file that is missing, altered or not listed is an error.

    Hidden files, which desktops and editors leave behind, are passed over: nothing reads them.
    """
    if not folder.is_dir():
        raise CheckpointMissingError(f"{folder} is not a folder; a checkpoint is a folder holding {CONFIG}")
    sums = folder / SUMS
    if not sums.is_file():
        raise CheckpointMissingError(f"{sums} is missing; a checkpoint lists its files' hashes there")
    expected = _parse_sums(sums)
    for name in (CONFIG, WEIGHTS):
        if name not in expected:
            raise CheckpointFormatError(f"{sums} does not list {name}; it is not the list of a Ferry checkpoint")
    for name, digest in expected.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointMissingError(f"{path} is missing, though {SUMS} lists it; copy the whole folder again")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != digest:
            raise CheckpointHashError(f"{path} is not the file that {SUMS} lists: it was altered or cut short")
    for path in sorted(folder.iterdir()):
        if path.name not in expected and path.name != SUMS and not path.name.startswith("."):
            raise CheckpointHashError(f"{path} is not listed in {SUMS}; it is no part of the checkpoint: remove it")


def save_checkpoint(
    folder: Path, config: CheckpointConfig, weights: Mapping[str, Tensor], files: Mapping[str, bytes]
) -> None:
    """Write a checkpoint; ``files`` are the tokenizer's and ``README.md``, by name.

    ``weights`` are a state dict of the model that ``config`` describes, stored in ``config.precision``; others are a
    CheckpointMismatchError. Everything is written to a temporary sibling, flushed to disk and renamed; an older
    checkpoint at ``folder`` is replaced, and stays whole if writing fails (OSError, for instance a full disk). A folder
    that holds something else is not replaced (CheckpointError).
    """
    folder = folder.resolve()
    _require_replaceable(folder)
    dtype = DTYPES[config.precision]
    stored = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in weights.items()}
    _require_match(folder / WEIGHTS, stored, _skeleton(config), dtype)
    contents = {
        CONFIG: (config.model_dump_json(indent=2) + "\n").encode(),
        WEIGHTS: save_tensors(stored),
        **files,
    }
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(contents.items()))
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        temporary.chmod(0o755)
        for name, data in contents.items():
            _write(temporary / name, data)
        _write(temporary / SUMS, sums.encode())  # last: without it nothing here can be loaded
        _sync(temporary)
        _replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _skeleton(config: CheckpointConfig) -> Seq2Seq:
    """The model without storage for its weights."""
    with torch.device("meta"), _Unfilled():
        return Seq2Seq(config.model)


class _Unfilled(TorchFunctionMode):
    """Leaves out normally distributed values: drawing them without storage loads torch's compiler, a second's work."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        if func is Tensor.normal_:
            return args[0]
        if func is nn.init.normal_ and kwargs:
            return kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as reader:
            return {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointFormatError(f"{path} is not a safetensors file: {error}") from error


def _require_match(path: Path, weights: Mapping[str, Tensor], model: Seq2Seq, dtype: torch.dtype) -> None:
    """The tensors of ``path`` must be those of the model: by name, shape and type."""
    expected = model.state_dict()
    for name in sorted(expected.keys() | weights.keys()):
        if name not in weights:
            raise CheckpointMismatchError(f"{path} has no tensor {name}, which {CONFIG} asks for")
        if name not in expected:
            raise CheckpointMismatchError(f"{path} has a tensor {name}, which {CONFIG} has no place for")
        if weights[name].shape != expected[name].shape:
            found, wanted = list(weights[name].shape), list(expected[name].shape)
            raise CheckpointMismatchError(f"{path}: {name} has the shape {found}; {CONFIG} asks for {wanted}")
        if weights[name].dtype != dtype:
            found_type, wanted_type = str(weights[name].dtype), str(dtype)
            raise CheckpointMismatchError(f"{path}: {name} is {found_type}; {CONFIG} asks for {wanted_type}")


def _parse_sums(path: Path) -> dict[str, str]:
    sums = {}
    try:
        lines = path.read_text("ascii").splitlines()
    except ValueError as error:
        raise CheckpointFormatError(f"{path} is not plain text: {error}") from error
    for number, line in enumerate(lines, 1):
        digest, _, name = line.partition("  ")
        if len(digest) != 64 or not name or Path(name).name != name or name == "..":
            raise CheckpointFormatError(f"{path}, line {number}: expected a SHA-256, two spaces and a file name")
        sums[name] = digest
    return sums


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _require_replaceable(folder: Path) -> None:
    """Replacing removes what was there, so it must be a checkpoint, or nothing."""
    if not folder.exists() or (folder / SUMS).is_file():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise CheckpointError(f"{folder} exists and is no checkpoint (it has no {SUMS}); name another folder")


def _replace(temporary: Path, folder: Path) -> None:
    """Put ``temporary`` in the place of ``folder``, which may exist: the old one steps aside and is then removed."""
    aside = temporary.with_name(f"{temporary.name}.old")
    replacing = folder.exists()
    if replacing:
        folder.rename(aside)
    try:
        temporary.rename(folder)
    except OSError:
        if replacing:
            aside.rename(folder)
        raise
    _sync(folder.parent)
    if replacing:
        shutil.rmtree(aside, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Flush a folder's list of names to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
