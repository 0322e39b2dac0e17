"""Folders that appear whole or not at all, also beside other processes, and after processes that were killed."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PARTIAL = ".partial"


@contextmanager
def published(destination: Path, *, replace: bool = False) -> Iterator[Path]:
    """An empty folder that becomes ``destination`` if the block ends well, and vanishes if not.

    It is a hidden sibling until then; those that killed processes left behind are removed first. A ``destination``
    that another process has published meanwhile is kept, unless it is to be replaced. Raises OSError.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(destination.parent)
    partial, lock = _locked_folder(destination)
    try:
        yield partial
        partial.chmod(0o755)
        if replace and destination.exists():
            shutil.rmtree(destination)
        try:
            os.rename(partial, destination)
        except OSError:
            if not destination.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(lock)


def remove_abandoned(parent: Path) -> None:
    """Removes what ``published`` left in ``parent`` when its process was killed: folders that nobody has locked."""
    for folder in parent.glob(f".*{_PARTIAL}"):
        with suppress(OSError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(lock)


def _locked_folder(destination: Path) -> tuple[Path, int]:
    """A new folder, and the descriptor that holds its lock as long as it is open."""
    while True:
        partial = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", suffix=_PARTIAL, dir=destination.parent))
        with suppress(FileNotFoundError):  # removed before it was locked: another process took it for abandoned
            lock = os.open(partial, os.O_RDONLY | os.O_DIRECTORY)
            with suppress(OSError):  # a file system without locks: there nothing is ever taken for abandoned
                fcntl.flock(lock, fcntl.LOCK_EX)
            if partial.exists():
                return partial, lock
            os.close(lock)
