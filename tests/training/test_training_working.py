"""One folder, one process: what a command finds when another is at work in its run's folder."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from training.cli import app
from training.config import Recipe
from training.run_folders import write_recipe
from training.run_processes import FolderInUseError, exclusive, in_use, run_command, working_in
from training.state import state_file


def unheard(text: str) -> None:
    raise AssertionError(text)


@pytest.fixture
def run(recipe: Callable[..., Recipe]) -> Path:
    """The folder of a run that can be fitted, its recipe in it."""
    made = recipe()
    return write_recipe(made, made.folder).parent


@pytest.fixture
def held(run: Path) -> Iterator[int]:
    """Another process that holds the lock of ``run``: its number."""
    code = (
        "import sys, pathlib\nfrom training.run_processes import working_in\n"
        "with working_in(pathlib.Path(sys.argv[1]), print):\n    print('held', flush=True)\n    sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", code, run], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdin is not None and other.stdout is not None
    with other, other.stdin:
        assert other.stdout.readline() == b"held\n"
        yield other.pid


@pytest.mark.parametrize("command", ["tokenizer", "fit", "export", "run"])
def test_a_command_leaves_a_folder_alone_in_which_another_is_at_work(command: str, run: Path, held: int) -> None:
    before = sorted(run.rglob("*"))
    done = CliRunner().invoke(app, [command, str(run / "recipe.yaml")])
    assert done.exit_code == 1
    assert f"another ferry-train (process {held}) is at work there" in done.stderr
    assert sorted(run.rglob("*")) == before


def test_a_folder_is_free_again_when_its_process_was_killed(run: Path, held: int) -> None:
    assert in_use(run)
    os.kill(held, 9)
    os.waitid(os.P_PID, held, os.WEXITED | os.WNOWAIT)
    with working_in(run, unheard):
        assert in_use(run)
    assert not in_use(run)


def test_a_command_is_refused_by_the_folder_of_a_comparison_at_work(run: Path) -> None:
    with (
        exclusive(run, lambda: True, unheard),
        pytest.raises(FolderInUseError, match=f"process {os.getpid()}"),
        working_in(run, unheard),
    ):
        pass


def test_a_command_works_under_the_lock_that_it_was_started_with(run: Path) -> None:
    with exclusive(run, lambda: True, unheard) as lock:
        run_command(["fit", run / "recipe.yaml"], run, lock, lambda: True)
    assert state_file(run).is_file()


def test_the_lock_of_one_folder_is_none_of_another(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    with exclusive(other, lambda: True, unheard) as lock:
        monkeypatch.setenv("FERRY_TRAIN_LOCK", str(lock))
        with working_in(other, unheard), working_in(run, unheard):
            assert in_use(run)
        monkeypatch.setenv("FERRY_TRAIN_LOCK", "of no use")
        with pytest.raises(FolderInUseError), working_in(other, unheard):
            pass


def test_where_nothing_can_be_locked_a_run_goes_on_and_says_so(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    done = CliRunner().invoke(app, ["fit", str(run / "recipe.yaml")], catch_exceptions=False)
    assert done.exit_code == 0
    assert "cannot be locked (No locks available): see to it that no other process trains there" in done.stderr
    assert state_file(run).is_file()


def test_of_several_ranks_the_first_alone_holds_the_lock(run: Path, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("training.commands.run._fit", lambda recipe, resume: (run / "reached").touch())
    assert CliRunner().invoke(app, ["fit", str(run / "recipe.yaml")], catch_exceptions=False).exit_code == 0
    assert (run / "reached").exists()


def test_an_export_of_no_run_leaves_no_folder(run: Path, tmp_path: Path) -> None:
    arguments = ["export", str(run / "recipe.yaml"), "--set", f"folder={tmp_path / 'nowhere'}"]
    assert CliRunner().invoke(app, arguments).exit_code == 1
    assert not (tmp_path / "nowhere").exists()
