"""Folders appear whole or not at all, and what was left of killed processes goes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from training.publish import published, remove_abandoned

WRITER = """
import sys
from pathlib import Path
from training.publish import published
with published(Path(sys.argv[1])) as partial:
    (partial / "half").write_text("written")
    print(flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def other(tmp_path: Path) -> subprocess.Popen[str]:
    """Another process, half-way through publishing ``tmp_path / "made"``; a line to its input lets it end."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "made")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    other.send_signal(signal.SIGKILL)
    other.communicate()
    assert len(list(tmp_path.iterdir())) == 1
    with published(tmp_path / "next"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["next"]


def test_a_process_at_work_keeps_its_folder(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    remove_abandoned(tmp_path)
    other.communicate("\n")
    assert (tmp_path / "made" / "half").read_text() == "written"


def test_what_another_has_published_meanwhile_is_kept(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    with published(tmp_path / "made") as partial:
        (partial / "whole").touch()
    other.communicate("\n")
    assert other.returncode == 0
    assert [path.name for path in tmp_path.rglob("*")] == ["made", "whole"]


def test_a_folder_is_replaced_only_when_the_new_one_is_whole(tmp_path: Path) -> None:
    made = tmp_path / "made"
    for content in ("first", "second"):
        with published(made, replace=True) as partial:
            (partial / "file").write_text(content)
    with pytest.raises(ValueError, match="third"), published(made, replace=True) as partial:
        raise ValueError("third")
    assert (made / "file").read_text() == "second"
    assert list(tmp_path.iterdir()) == [made]
