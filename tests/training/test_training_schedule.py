"""Learning rates by step."""

from __future__ import annotations

import math

import pytest

from training.config import TrainingConfig
from training.schedule import Schedule


def schedule(**options: object) -> Schedule:
    return Schedule(
        TrainingConfig.model_validate({"learning_rate": 1.0, "warmup_steps": 10, "max_steps": 110, **options})
    )


@pytest.mark.parametrize("kind", ["cosine", "inverse_sqrt", "plateau"])
def test_warm_up_is_linear_and_never_zero(kind: str) -> None:
    rates = [schedule(schedule=kind).rate(step) for step in range(1, 11)]
    assert rates == pytest.approx([step / 10 for step in range(1, 11)])


def test_cosine_passes_half_way_and_ends_at_the_minimum() -> None:
    cosine = schedule(schedule="cosine", minimum_learning_rate=0.2)
    assert cosine.rate(60) == pytest.approx(0.6)
    assert cosine.rate(110) == pytest.approx(0.2)
    assert cosine.rate(500) == pytest.approx(0.2)


def test_inverse_square_root_falls_with_the_step() -> None:
    assert schedule(schedule="inverse_sqrt").rate(40) == pytest.approx(math.sqrt(10 / 40))
    assert schedule(schedule="inverse_sqrt", warmup_steps=0).rate(4) == pytest.approx(0.5)


def test_plateau_comes_down_when_the_figure_stops_rising() -> None:
    plateau = schedule(schedule="plateau", plateau_patience=2, plateau_factor=0.5)
    for figure in (10.0, 11.0, 11.0):
        plateau.validated(figure)
    assert plateau.rate(50) == 1.0
    plateau.validated(10.5)
    assert plateau.rate(50) == 0.5


def test_plateau_survives_a_resumption() -> None:
    first = schedule(schedule="plateau", plateau_patience=2)
    for figure in (10.0, 9.0):
        first.validated(figure)
    second = schedule(schedule="plateau", plateau_patience=2)
    second.restore(first.state())
    second.validated(9.5)
    assert second.rate(50) == 0.5
