"""Checkpoints to models: what is measured of them, and how often."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

import app.loading
from app.loading import Loader
from model.precision import Precision, Prepared, prepare
from model.seq2seq import Seq2Seq


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The precisions that models are prepared in."""
    seen: list[str] = []

    def noting(model: Seq2Seq, precision: Precision | Literal["auto"]) -> Prepared:
        seen.append(precision)
        return prepare(model, precision)

    monkeypatch.setattr(app.loading, "prepare", noting)
    return seen


def test_models_of_the_same_shape_are_measured_once(
    tiny_checkpoint: Path, tiny_checkpoint_fr: Path, asked: list[str]
) -> None:
    loader = Loader("auto", False, {})
    first, _ = loader.read(tiny_checkpoint)
    second, _ = loader.read(tiny_checkpoint_fr)
    assert first.config.model == second.config.model and first.config.name != second.config.name
    assert asked == ["auto", first.precision]
    assert second.precision == first.precision
    assert second.measured == first.measured and set(first.measured) >= {"float32", "int8"}


def test_a_precision_that_was_set_is_not_measured(tiny_checkpoint: Path, asked: list[str]) -> None:
    facts, _ = Loader("int8", False, {}).read(tiny_checkpoint)
    named, _ = Loader("auto", False, {facts.config.name: "float32"}).read(tiny_checkpoint)
    assert asked == ["int8", "float32"]
    assert (facts.precision, named.precision) == ("int8", "float32")
    assert not facts.measured and not named.measured
