"""A checkpoint comes back as it was saved; a broken one is an error that names the file at fault."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import FILES, described, reseal, save
from safetensors.torch import load_file, save_file
from tiny_models import random_sources, tiny_model

from model.checkpoint import (
    CheckpointError,
    CheckpointFormatError,
    CheckpointHashError,
    CheckpointMismatchError,
    CheckpointMissingError,
    CheckpointVersionError,
    load_checkpoint,
    read_config,
    save_checkpoint,
)
from model.search import SearchOptions, translate


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(tmp_path / "en-de")


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_weights_come_back_as_they_were_stored(tmp_path: Path, precision: str) -> None:
    model = tiny_model(1, dtype=torch.float32)
    config = described(model, precision=precision)
    save_checkpoint(tmp_path / "en-de", config, model.state_dict(), FILES)
    loaded = load_checkpoint(tmp_path / "en-de")
    assert loaded.config == config
    stored = getattr(torch, precision)
    for name, tensor in loaded.model.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, model.state_dict()[name].to(stored).float())
    assert load_file(tmp_path / "en-de" / "model.safetensors")["output_bias"].dtype == stored


def test_a_loaded_model_translates_as_the_saved_one(tmp_path: Path) -> None:
    model = tiny_model(1, dtype=torch.float32)
    config = described(model)
    save_checkpoint(tmp_path / "en-de", config, model.state_dict(), FILES)
    loaded = load_checkpoint(tmp_path / "en-de").model
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    sources, options = random_sources(1, 8), SearchOptions(beam_size=3, n_best=3)
    expected = translate(model, sources, options, config.length_limit)
    assert translate(loaded, sources, options, config.length_limit) == expected


@pytest.mark.parametrize("attention", ["additive", "general", "dot", "multihead"])
@pytest.mark.parametrize("tied", ["none", "target", "all"])
def test_every_kind_of_model_can_be_stored(tmp_path: Path, attention: str, tied: str) -> None:
    model = tiny_model(2, dtype=torch.float32, attention=attention, tied=tied, input_feeding=True)
    save_checkpoint(tmp_path / "en-de", described(model), model.state_dict(), FILES)
    weights = load_checkpoint(tmp_path / "en-de").model.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())


def test_the_folder_can_be_checked_with_sha256sum(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "SHA256SUMS", *FILES}
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert (folder / "tokenizer.model").read_bytes() == FILES["tokenizer.model"]


def edit_config(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    reseal(folder)


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    edit(weights)
    save_file(weights, path)
    reseal(folder)


def truncate(folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])


def flip_a_bit(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)


def replace(folder: Path, name: str, data: bytes) -> None:
    (folder / name).write_bytes(data)
    reseal(folder)


def forget(folder: Path, name: str) -> None:
    sums = folder / "SHA256SUMS"
    sums.write_text("".join(line for line in sums.read_text().splitlines(True) if not line.endswith(f"  {name}\n")))


def append_sum(folder: Path, line: str) -> None:
    with (folder / "SHA256SUMS").open("a") as file:
        file.write(line + "\n")


WEIGHTS, CONFIG, SUMS = "model.safetensors", "config.json", "SHA256SUMS"
BROKEN: dict[str, tuple[type[CheckpointError], str, Callable[[Path], object]]] = {
    "no folder": (CheckpointMissingError, "en-de", shutil.rmtree),
    "an empty folder": (CheckpointMissingError, SUMS, lambda f: [path.unlink() for path in f.iterdir()]),
    "no hashes": (CheckpointMissingError, SUMS, lambda f: (f / SUMS).unlink()),
    "no weights": (CheckpointMissingError, WEIGHTS, lambda f: (f / WEIGHTS).unlink()),
    "no tokenizer": (CheckpointMissingError, "tokenizer.model", lambda f: (f / "tokenizer.model").unlink()),
    "truncated weights": (CheckpointHashError, WEIGHTS, lambda f: truncate(f, WEIGHTS)),
    "truncated config": (CheckpointHashError, CONFIG, lambda f: truncate(f, CONFIG)),
    "tampered weights": (CheckpointHashError, WEIGHTS, lambda f: flip_a_bit(f, WEIGHTS)),
    "a tampered tokenizer": (CheckpointHashError, "tokenizer.model", lambda f: flip_a_bit(f, "tokenizer.model")),
    "an unlisted tokenizer": (CheckpointHashError, "tokenizer.model", lambda f: forget(f, "tokenizer.model")),
    "a foreign file": (CheckpointHashError, "extra.bin", lambda f: (f / "extra.bin").write_bytes(b"x")),
    "unlisted weights": (CheckpointFormatError, SUMS, lambda f: forget(f, WEIGHTS)),
    "hashes that are no list": (CheckpointFormatError, SUMS, lambda f: (f / SUMS).write_text("hello\n")),
    "hashes that are no text": (CheckpointFormatError, SUMS, lambda f: (f / SUMS).write_bytes(b"\xff" * 70)),
    "a path out of the folder": (CheckpointFormatError, SUMS, lambda f: append_sum(f, "0" * 64 + "  ../secret")),
    "an absolute path": (CheckpointFormatError, SUMS, lambda f: append_sum(f, "0" * 64 + "  /etc/passwd")),
    "the parent folder": (CheckpointFormatError, SUMS, lambda f: append_sum(f, "0" * 64 + "  ..")),
    "config that is no JSON": (CheckpointFormatError, CONFIG, lambda f: replace(f, CONFIG, b"{")),
    "config that is no text": (CheckpointFormatError, CONFIG, lambda f: replace(f, CONFIG, b"\xff\xfe\x00")),
    "config that is a list": (CheckpointFormatError, CONFIG, lambda f: replace(f, CONFIG, b"[1]")),
    "another project's config": (CheckpointFormatError, CONFIG, lambda f: replace(f, CONFIG, b'{"model_type": "t5"}')),
    "an unknown key": (CheckpointFormatError, CONFIG, lambda f: edit_config(f, lambda c: c.update(extra=1))),
    "a missing key": (CheckpointFormatError, CONFIG, lambda f: edit_config(f, lambda c: c.pop("training"))),
    "an endless limit": (
        CheckpointFormatError,
        CONFIG,
        lambda f: edit_config(f, lambda c: c["length_limit"].update(ratio_mean=float("inf"))),
    ),
    "a newer format": (CheckpointVersionError, CONFIG, lambda f: edit_config(f, lambda c: c.update(format_version=2))),
    "an older format": (CheckpointVersionError, CONFIG, lambda f: edit_config(f, lambda c: c.update(format_version=0))),
    "a pickle": (CheckpointFormatError, WEIGHTS, lambda f: replace(f, WEIGHTS, b"\x80\x04\x95")),
    "empty weights": (CheckpointFormatError, WEIGHTS, lambda f: replace(f, WEIGHTS, b"")),
    "half of the weights": (
        CheckpointFormatError,
        WEIGHTS,
        lambda f: replace(f, WEIGHTS, (f / WEIGHTS).read_bytes()[:-100]),
    ),
    "a tensor too few": (
        CheckpointMismatchError,
        "output_bias",
        lambda f: edit_weights(f, lambda w: w.pop("output_bias")),
    ),
    "a tensor too many": (
        CheckpointMismatchError,
        "spare",
        lambda f: edit_weights(f, lambda w: w.update(spare=torch.zeros(1))),
    ),
    "another shape": (
        CheckpointMismatchError,
        "output_bias",
        lambda f: edit_weights(f, lambda w: w.update(output_bias=torch.zeros(5))),
    ),
    "another type": (
        CheckpointMismatchError,
        "output_bias",
        lambda f: edit_weights(f, lambda w: w.update(output_bias=w["output_bias"].long())),
    ),
    "another precision": (
        CheckpointMismatchError,
        WEIGHTS,
        lambda f: edit_config(f, lambda c: c.update(precision="float16")),
    ),
    "another width": (
        CheckpointMismatchError,
        WEIGHTS,
        lambda f: edit_config(f, lambda c: c["model"].update(embedding=4)),
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_checkpoint_is_a_typed_error_that_names_the_file(folder: Path, case: str) -> None:
    error, named, damage = BROKEN[case]
    damage(folder)
    with pytest.raises(CheckpointError, match=named) as raised:
        load_checkpoint(folder)
    assert raised.type is error
    assert str(folder) in str(raised.value)


def test_a_newer_format_says_what_to_do(folder: Path) -> None:
    edit_config(folder, lambda content: content.update(format_version=7))
    with pytest.raises(CheckpointVersionError, match="format 7; this version reads 1: upgrade ferry"):
        load_checkpoint(folder)


def test_a_bad_value_is_named_with_its_place(folder: Path) -> None:
    edit_config(folder, lambda content: content["model"].update(hidden=7))
    with pytest.raises(CheckpointFormatError, match=r"config\.json: model: .*hidden is 7; it must be even"):
        load_checkpoint(folder)


def test_reading_the_config_checks_the_hashes(folder: Path) -> None:
    assert read_config(folder).name == "en-de"
    flip_a_bit(folder, WEIGHTS)
    with pytest.raises(CheckpointHashError, match=WEIGHTS):
        read_config(folder)


def test_hidden_files_are_passed_over(folder: Path) -> None:
    (folder / ".DS_Store").write_bytes(b"\0")
    assert load_checkpoint(folder).config.name == "en-de"


def test_loading_leaves_torchs_compiler_out(folder: Path) -> None:
    """It takes a second and a hundred megabytes, which a service that starts does not have to spare."""
    code = (
        "import sys; from pathlib import Path; from model.checkpoint import load_checkpoint; "
        f"load_checkpoint(Path({str(folder)!r})); sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
