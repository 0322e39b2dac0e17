"""Writing a checkpoint: all of it or nothing, whatever fails."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from checkpoints import FILES, described, save
from tiny_models import tiny_model

from model.checkpoint import (
    CheckpointError,
    CheckpointMismatchError,
    CheckpointMissingError,
    load_checkpoint,
    save_checkpoint,
)


def version_at(folder: Path) -> str:
    return load_checkpoint(folder).config.version


def test_an_older_checkpoint_is_replaced_whole(tmp_path: Path) -> None:
    folder = save(tmp_path / "en-de", version="1")
    save(folder, seed=2, version="2")
    assert version_at(folder) == "2"
    assert torch.equal(load_checkpoint(folder).model.output_bias, tiny_model(2, dtype=torch.float32).output_bias)
    assert os.listdir(tmp_path) == ["en-de"]


def test_missing_folders_above_are_made(tmp_path: Path) -> None:
    assert version_at(save(tmp_path / "a" / "b" / "en-de")) == "1"


def test_a_link_keeps_pointing_to_the_new_checkpoint(tmp_path: Path) -> None:
    real = save(tmp_path / "real", version="1")
    link = tmp_path / "en-de"
    link.symlink_to(real)
    save(link, version="2")
    assert link.is_symlink() and version_at(real) == version_at(link) == "2"


class FullDisk:
    """Stands for a system call that fails as on a full disk from its n-th call on."""

    def __init__(self, call: object, allowed: int) -> None:
        self.call, self.allowed, self.failed = call, allowed, False

    def __call__(self, *arguments: object) -> object:
        self.allowed -= 1
        if self.allowed < 0:
            self.failed = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        assert callable(self.call)
        return self.call(*arguments)


@pytest.mark.parametrize("files_written", range(6))
def test_a_disk_that_fills_up_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files_written: int
) -> None:
    """Five files and their folder are flushed before the checkpoint is put in its place."""
    folder = save(tmp_path / "en-de", version="1")
    full = FullDisk(os.fsync, files_written)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(folder, version="2")
    assert full.failed
    assert version_at(folder) == "1"
    assert os.listdir(tmp_path) == ["en-de"]


@pytest.mark.parametrize("renames", range(2))
def test_a_rename_that_fails_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    folder = save(tmp_path / "en-de", version="1")
    real, calls = Path.rename, iter([True] * renames + [False])

    def rename(path: Path, target: Path) -> Path:
        if not next(calls, True):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match="Input/output error"):
        save(folder, version="2")
    assert version_at(folder) == "1"
    assert os.listdir(tmp_path) == ["en-de"]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond ``size`` bytes: the write itself fails, as on a full disk (Python ignores SIGXFSZ)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_write_that_really_fails_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    folder = save(tmp_path / "en-de", version="1")
    weights = (folder / "model.safetensors").stat().st_size
    with largest_file(weights - 1), pytest.raises(OSError, match="File too large"):
        save(folder, version="2")
    assert version_at(folder) == "1"
    assert os.listdir(tmp_path) == ["en-de"]


def test_a_first_write_that_really_fails_leaves_nothing(tmp_path: Path) -> None:
    with largest_file(1000), pytest.raises(OSError, match="File too large"):
        save(tmp_path / "en-de")
    assert os.listdir(tmp_path) == []


KILL = """
import os, signal, sys
from pathlib import Path
from checkpoints import save
fsync, calls = os.fsync, []
def flush(descriptor):
    calls.append(fsync(descriptor))
    if len(calls) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
os.fsync = flush
save(Path(sys.argv[1]), version="2")
"""


def test_what_a_killed_process_leaves_behind_cannot_be_loaded(tmp_path: Path) -> None:
    """Killed after four of five files: the half-written folder has no hashes yet."""
    folder = save(tmp_path / "en-de", version="1")
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parents[1])])}
    done = subprocess.run([sys.executable, "-c", KILL, str(folder)], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert version_at(folder) == "1"
    (half,) = (path for path in tmp_path.iterdir() if path != folder)
    with pytest.raises(CheckpointMissingError, match="SHA256SUMS"):
        load_checkpoint(half)


@pytest.mark.parametrize("occupant", ["folder", "file"])
def test_what_is_no_checkpoint_is_never_replaced(tmp_path: Path, occupant: str) -> None:
    precious = tmp_path / "thesis"
    if occupant == "folder":
        precious.mkdir()
        (precious / "chapter-1.txt").write_text("years of work")
    else:
        precious.write_text("years of work")
    with pytest.raises(CheckpointError, match="thesis exists and is no checkpoint"):
        save(precious)
    kept = precious / "chapter-1.txt" if occupant == "folder" else precious
    assert kept.read_text() == "years of work"


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "en-de").mkdir()
    assert version_at(save(tmp_path / "en-de")) == "1"


def test_weights_of_another_model_are_not_saved(tmp_path: Path) -> None:
    folder = save(tmp_path / "en-de", version="1")
    model = tiny_model(1, dtype=torch.float32)
    other = tiny_model(1, dtype=torch.float32, hidden=12)
    with pytest.raises(CheckpointMismatchError, match="asks for"):
        save_checkpoint(folder, described(model, version="2"), other.state_dict(), FILES)
    assert version_at(folder) == "1"
