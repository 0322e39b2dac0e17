"""Freezing by name: what a pattern means, and what is answered to one that means nothing."""

from __future__ import annotations

import pytest

from model.config import ModelConfig
from model.seq2seq import Seq2Seq
from training.freezing import FreezingError, freeze


@pytest.fixture
def model() -> Seq2Seq:
    return Seq2Seq(ModelConfig(source_vocabulary=9, target_vocabulary=9, embedding=4, hidden=4))


def test_freezing_is_by_pattern(model: Seq2Seq) -> None:
    frozen = freeze(model, ["encoder.*", "*.bias"])
    expected = [name for name, _ in model.named_parameters() if name.startswith("encoder.") or name.endswith(".bias")]
    assert frozen == expected
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == expected


def test_a_pattern_that_matches_nothing_is_answered_with_near_ones(model: Seq2Seq) -> None:
    with pytest.raises(FreezingError, match=r"'encodr\.\*' matches no parameter; did you mean 'encoder\.\*'"):
        freeze(model, ["encodr.*"])
    with pytest.raises(
        FreezingError, match=r"matches no parameter; there are output_bias, target_embedding\.\*, encoder\.\*, "
    ):
        freeze(model, ["zzz"])


def test_freezing_everything_is_refused(model: Seq2Seq) -> None:
    with pytest.raises(FreezingError, match="nothing is left to learn"):
        freeze(model, ["*"])
