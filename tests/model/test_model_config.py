"""Configurations that make no sense are refused with a reason; the formulas of length are those of the papers."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from model.config import LengthLimit, LengthPenalty, ModelConfig

SIZES = {"source_vocabulary": 20, "target_vocabulary": 20}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an odd width": ({"hidden": 7}, "must be even"),
    "heads that do not divide": ({"hidden": 10, "heads": 4}, "multiple of heads"),
    "one table for two vocabularies": ({"target_vocabulary": 21}, "joint vocabulary"),
    "two roles for one id": ({"pad": 1}, "four different ids"),
    "an id outside a vocabulary": ({"eos": 20}, "inside both vocabularies"),
    "a negative id": ({"pad": -1}, "greater than or equal to 0"),
    "a vocabulary of reserved ids": ({"source_vocabulary": 4}, "greater than 4"),
    "no layers": ({"decoder_layers": 0}, "greater than or equal to 1"),
    "a width that no machine holds": ({"hidden": 10**12}, "less than or equal to 65536"),
    "dropout of everything": ({"dropout": 1.0}, "less than 1"),
    "dropout that is no number": ({"word_dropout": math.nan}, "finite|greater|less"),
    "an unknown attention": ({"attention": "bilinear"}, "'additive', 'general', 'dot' or 'multihead'"),
    "an unknown key": ({"hiden": 8}, "Extra inputs are not permitted"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_model_that_makes_no_sense_is_refused(case: str) -> None:
    choices, message = REFUSED[case]
    with pytest.raises(ValidationError, match=message):
        ModelConfig.model_validate(SIZES | choices)


def test_heads_matter_to_multihead_attention_only() -> None:
    assert ModelConfig.model_validate(SIZES | {"hidden": 10, "heads": 4, "attention": "dot"}).hidden == 10


def test_separate_vocabularies_may_differ() -> None:
    config = ModelConfig.model_validate(SIZES | {"target_vocabulary": 21, "tied": "target"})
    assert config.target_vocabulary == 21


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        LengthPenalty().alpha = 2.0  # type: ignore[misc]


def test_it_survives_json() -> None:
    config = ModelConfig.model_validate(SIZES | {"attention": "additive", "dropout": 0.1})
    assert ModelConfig.model_validate_json(config.model_dump_json()) == config


def test_the_limit_grows_with_the_source_up_to_the_cap() -> None:
    limit = LengthLimit(ratio_mean=1.1, ratio_deviation=0.2, deviations=3.0, margin=5, cap=40)
    assert [limit.limit(length) for length in (1, 2, 10, 20, 1000)] == [7, 9, 22, 39, 40]


@pytest.mark.parametrize("field", ["ratio_mean", "ratio_deviation", "deviations"])
@pytest.mark.parametrize("value", [math.inf, math.nan, -1.0])
def test_a_limit_that_cannot_be_computed_is_refused(field: str, value: float) -> None:
    with pytest.raises(ValidationError):
        LengthLimit.model_validate({field: value})


@pytest.mark.parametrize(
    ("kind", "alpha", "length", "expected"),
    [
        ("power", 1.0, 8, 8.0),
        ("power", 0.5, 9, 3.0),
        ("power", 0.0, 9, 1.0),
        ("gnmt", 1.0, 7, 2.0),
        ("gnmt", 0.5, 19, 2.0),
        ("gnmt", 2.0, 1, 1.0),
        ("none", 1.0, 8, 1.0),
    ],
)
def test_the_penalty_is_that_of_its_formula(kind: str, alpha: float, length: int, expected: float) -> None:
    penalty = LengthPenalty.model_validate({"kind": kind, "alpha": alpha})
    assert penalty.penalty(length) == pytest.approx(expected)


@given(kind=st.sampled_from(["power", "gnmt", "none"]), alpha=st.floats(0, 5), length=st.integers(1, 500))
def test_the_penalty_never_falls_and_is_at_least_one(kind: str, alpha: float, length: int) -> None:
    """What exact early stopping rests on."""
    penalty = LengthPenalty.model_validate({"kind": kind, "alpha": alpha})
    assert 1 <= penalty.penalty(length) <= penalty.penalty(length + 1)
