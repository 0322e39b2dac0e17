"""A folder of files that is sealed by their hashes, and written so that no half of one is ever read."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from model.checkpoint.errors import (
    CheckpointError,
    CheckpointFormatError,
    CheckpointHashError,
    CheckpointMissingError,
)

SUMS = "SHA256SUMS"


def verify_folder(folder: Path, required: Iterable[str]) -> None:
    """Compare every file with ``SHA256SUMS``; one that is missing, altered or not listed is a CheckpointError.

    The files ``required`` must be listed. Hidden files, which desktops and editors leave behind, are passed over:
    nothing reads them.
    """
    if not folder.is_dir():
        raise CheckpointMissingError(f"{folder} is not a folder; a checkpoint is a folder holding {SUMS}")
    sums = folder / SUMS
    if not sums.is_file():
        raise CheckpointMissingError(f"{sums} is missing; a checkpoint lists its files' hashes there")
    expected = _parse_sums(sums)
    for name in required:
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


def listed_files(folder: Path) -> list[str]:
    """The names in ``SHA256SUMS``, in its order. Raises CheckpointFormatError."""
    return list(_parse_sums(folder / SUMS))


def write_folder(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write the files ``contents`` and their hashes to a temporary sibling, flush it to disk and rename it.

    An older checkpoint at ``folder`` is replaced, and stays whole if writing fails (OSError, for instance a full disk).
    """
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


def require_replaceable(folder: Path) -> None:
    """Replacing removes what was there, so it must be a checkpoint, or nothing."""
    if not folder.exists() or (folder / SUMS).is_file():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise CheckpointError(f"{folder} exists and is no checkpoint (it has no {SUMS}); name another folder")


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
