"""Device and precision are what the recipe asks for, or an error."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from training import device
from training.config import Recipe
from training.device import DeviceError, resolve_device


def recipe(**options: object) -> Recipe:
    text = {"source": Path("a"), "target": Path("b")}
    data = {"source": "en", "target": "de", "train": [text], "dev": [text]}
    return Recipe.model_validate({"name": "r", "data": data, "export": {"licence": "CC0-1.0"}, **options})


def test_auto_precision_follows_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    for able in (True, False):
        monkeypatch.setattr(device, "has_bfloat16", lambda name, able=able: able)
        assert resolve_device(recipe(device="cpu")).bfloat16 is able
        assert resolve_device(recipe(device="cpu", precision="float32")).bfloat16 is False


def test_bfloat16_where_there_is_none_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "has_bfloat16", lambda name: False)
    with pytest.raises(DeviceError, match="use auto or float32"):
        resolve_device(recipe(device="cpu", precision="bfloat16"))


def test_cuda_where_there_is_none_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="no GPU"):
        resolve_device(recipe(device="cuda"))


def test_onednn_keeps_its_kernels_unless_the_environment_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    monkeypatch.delenv(name, raising=False)
    resolve_device(recipe(device="cpu", precision="float32"))
    assert os.environ[name] == device.COMPILED_SHAPES
    monkeypatch.setenv(name, "5")
    resolve_device(recipe(device="cpu", precision="float32"))
    assert os.environ[name] == "5"
