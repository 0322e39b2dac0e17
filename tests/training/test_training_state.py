"""Training state is whole or not there, and brings every generator back."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy
import pytest
import torch

from training.state import (
    Progress,
    StateError,
    TrainingState,
    generators,
    load_state,
    restore_generators,
    save_state,
    seed_generators,
    write_atomically,
)


def state(recipe: str = "abc") -> TrainingState:
    return {
        "recipe": recipe,
        "progress": tuple(Progress(step=7, target_tokens=9)),
        "position": (0, 3, 5),
        "model": {"weight": torch.arange(4.0)},
        "average": {"weight": torch.zeros(4)},
        "optimizer": {"state": {}},
        "schedule": {"scale": 1.0, "best": None, "waited": 0},
        "generators": [generators()],
    }


def draw() -> tuple[float, float, float]:
    return random.random(), float(numpy.random.rand()), float(torch.rand(()))


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    save_state(tmp_path / "state.pt", state())
    loaded = load_state(tmp_path / "state.pt", "abc")
    assert Progress(*loaded["progress"]) == Progress(step=7, target_tokens=9)  # type: ignore[arg-type]
    assert torch.equal(loaded["model"]["weight"], torch.arange(4.0))


def test_every_generator_goes_on_where_it_was(tmp_path: Path) -> None:
    seed_generators(5)
    draw()
    save_state(tmp_path / "state.pt", state())
    expected = draw()
    seed_generators(99)
    restore_generators(load_state(tmp_path / "state.pt", "abc")["generators"][0])
    assert draw() == expected


def test_nothing_to_resume_says_so(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="start without --resume"):
        load_state(tmp_path / "state.pt", "abc")


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"text" * 50])
def test_a_damaged_state_is_named(tmp_path: Path, damage) -> None:
    path = tmp_path / "state.pt"
    save_state(path, state())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StateError, match=r"state\.pt"):
        load_state(path, "abc")


def test_another_recipe_is_refused(tmp_path: Path) -> None:
    save_state(tmp_path / "state.pt", state())
    with pytest.raises(StateError, match="another recipe"):
        load_state(tmp_path / "state.pt", "xyz")


def test_a_full_disk_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.pt"
    write_atomically(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new and longer")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"]
