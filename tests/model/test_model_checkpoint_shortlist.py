"""A checkpoint's shortlist comes back as it was saved; a damaged one is a typed error that names the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints import FILES, described, reseal, save
from safetensors.torch import load_file, save_file
from tiny_models import VOCABULARY, random_sources, tiny_model

from model.checkpoint import (
    CheckpointError,
    CheckpointFormatError,
    CheckpointHashError,
    CheckpointMismatchError,
    CheckpointMissingError,
    ShortlistSummary,
    listed_files,
    load_checkpoint,
    save_checkpoint,
)
from model.search import SearchOptions, translate
from model.shortlist import Shortlist

FILE, CONFIG = "shortlist.safetensors", "config.json"
SUMMARY = ShortlistSummary(size=2, frequent=1, pairs=3, data=("made up",))
SHORTLIST = Shortlist(
    offsets=torch.arange(0, 2 * VOCABULARY + 1, 2, dtype=torch.int32),
    ids=torch.tensor([(piece * 5 + step) % VOCABULARY for piece in range(VOCABULARY) for step in (0, 1)]).int(),
    always=torch.arange(5, dtype=torch.int32),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tiny_model(1, dtype=torch.float32)
    config = described(model, shortlist=SUMMARY)
    save_checkpoint(tmp_path / "en-de", config, model.state_dict(), FILES, SHORTLIST)
    return tmp_path / "en-de"


def test_a_shortlist_comes_back_as_it_was_saved(folder: Path) -> None:
    loaded = load_checkpoint(folder)
    assert loaded.config.shortlist == SUMMARY
    assert loaded.shortlist is not None
    assert all(torch.equal(found, saved) for found, saved in zip(loaded.shortlist, SHORTLIST, strict=True))
    assert FILE in listed_files(folder)


def test_a_loaded_shortlist_translates_as_the_saved_one(folder: Path) -> None:
    loaded = load_checkpoint(folder)
    sources, limit = random_sources(1, 8), loaded.config.length_limit
    found, expected = (
        translate(loaded.model, sources, SearchOptions(), limit, shortlist=shortlist)
        for shortlist in (loaded.shortlist, SHORTLIST)
    )
    assert found == expected


def test_a_checkpoint_without_one_has_none(tmp_path: Path) -> None:
    assert load_checkpoint(save(tmp_path / "en-de")).shortlist is None


def test_a_config_from_before_shortlists_still_loads(tmp_path: Path) -> None:
    folder = save(tmp_path / "en-de")
    content = json.loads((folder / CONFIG).read_text())
    del content["shortlist"]
    (folder / CONFIG).write_text(json.dumps(content))
    reseal(folder)
    assert load_checkpoint(folder).shortlist is None


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / FILE)
    change(tensors)
    save_file(tensors, folder / FILE)
    reseal(folder)


def forget_in_config(folder: Path) -> None:
    content = json.loads((folder / CONFIG).read_text())
    content["shortlist"] = None
    (folder / CONFIG).write_text(json.dumps(content))
    reseal(folder)


def remove(folder: Path) -> None:
    (folder / FILE).unlink()
    reseal(folder)


def overwrite(folder: Path, data: bytes) -> None:
    (folder / FILE).write_bytes(data)
    reseal(folder)


def flip_a_bit(folder: Path) -> None:
    data = bytearray((folder / FILE).read_bytes())
    data[-1] ^= 1
    (folder / FILE).write_bytes(data)


BROKEN: dict[str, tuple[type[CheckpointError], str, Callable[[Path], object]]] = {
    "tampered": (CheckpointHashError, "altered", flip_a_bit),
    "missing": (CheckpointMissingError, f"{CONFIG} speaks of it", remove),
    "unknown to the config": (CheckpointMismatchError, f"{CONFIG} speaks of no shortlist", forget_in_config),
    "no safetensors": (CheckpointFormatError, "not a safetensors file", lambda f: overwrite(f, b"\x80\x04\x95")),
    "a tensor too few": (CheckpointMismatchError, "has the tensors", lambda f: edit(f, lambda t: t.pop("always"))),
    "a tensor too many": (
        CheckpointMismatchError,
        "has the tensors",
        lambda f: edit(f, lambda t: t.update(spare=torch.zeros(1))),
    ),
    "an id outside": (
        CheckpointMismatchError,
        "ids holds a piece outside the target vocabulary of 12",
        lambda f: edit(f, lambda t: t.update(ids=t["ids"] + 1)),
    ),
    "another size": (
        CheckpointMismatchError,
        "offsets has 12 entries",
        lambda f: edit(f, lambda t: t.update(offsets=t["offsets"][1:].clone())),
    ),
    "ids too few": (
        CheckpointMismatchError,
        "offsets must rise",
        lambda f: edit(f, lambda t: t.update(ids=t["ids"][1:].clone())),
    ),
    "another type": (
        CheckpointMismatchError,
        "ids is torch.int64",
        lambda f: edit(f, lambda t: t.update(ids=t["ids"].long())),
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_shortlist_is_a_typed_error_that_names_the_file(folder: Path, case: str) -> None:
    error, message, damage = BROKEN[case]
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as raised:
        load_checkpoint(folder)
    assert raised.type is error
    assert str(folder / FILE) in str(raised.value)


@pytest.mark.parametrize(("summary", "shortlist"), [(SUMMARY, None), (None, SHORTLIST)])
def test_a_shortlist_and_its_summary_are_saved_together(
    tmp_path: Path, summary: ShortlistSummary | None, shortlist: Shortlist | None
) -> None:
    model = tiny_model(1, dtype=torch.float32)
    with pytest.raises(CheckpointMismatchError, match="go together"):
        save_checkpoint(tmp_path / "x", described(model, shortlist=summary), model.state_dict(), FILES, shortlist)
    assert not (tmp_path / "x").exists()


def test_a_shortlist_of_another_vocabulary_is_not_saved(tmp_path: Path) -> None:
    model = tiny_model(1, vocabulary=13, dtype=torch.float32)
    with pytest.raises(CheckpointMismatchError, match="offsets has 13 entries"):
        save_checkpoint(tmp_path / "x", described(model, shortlist=SUMMARY), model.state_dict(), FILES, SHORTLIST)
    assert not (tmp_path / "x").exists()
