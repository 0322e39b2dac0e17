"""The weights of the last validations: kept no longer than needed, and averaged exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training.averaging import AveragingError, WeightHistory


def weights(value: float) -> dict[str, torch.Tensor]:
    return {"matrix": torch.full((2, 3), value), "bias": torch.tensor([value, -value])}


@pytest.fixture
def history(tmp_path: Path) -> WeightHistory:
    """Keeps 3 and has seen validations at 10, 20, 30, 40 and 100."""
    history = WeightHistory(tmp_path, 3)
    for step in (10, 20, 30, 40, 100):
        history.add(step, weights(float(step)))
    return history


def test_the_mean_is_that_of_the_last_validations(history: WeightHistory) -> None:
    mean = history.mean()
    expected = weights((30 + 40 + 100) / 3)
    assert mean.keys() == expected.keys()
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, expected[name])
        assert tensor.dtype == torch.float32


def test_fewer_validations_than_asked_for_are_averaged_all_the_same(tmp_path: Path) -> None:
    history = WeightHistory(tmp_path, 10)
    history.add(5, weights(1.0))
    history.add(6, weights(2.0))
    torch.testing.assert_close(history.mean()["bias"], torch.tensor([1.5, -1.5]))


def test_a_saved_state_drops_what_nobody_needs_any_more(history: WeightHistory) -> None:
    assert history.steps() == [10, 20, 30, 40, 100]
    history.prune()
    assert history.steps() == [30, 40, 100]


def test_nothing_is_kept_unless_asked_for(tmp_path: Path) -> None:
    history = WeightHistory(tmp_path, 0)
    history.add(5, weights(1.0))
    history.prune()
    assert history.steps() == []


def test_a_new_run_forgets_the_old_one(history: WeightHistory) -> None:
    history.start()
    assert history.steps() == []


def test_a_resumed_run_forgets_what_came_after_its_state(history: WeightHistory) -> None:
    history.resume(30, validate_every=10)
    assert history.steps() == [10, 20, 30]


def test_weights_that_a_resumed_run_needs_are_missed(history: WeightHistory) -> None:
    for step in (10, 20):
        (history.folder / f"{step}.safetensors").unlink()
    with pytest.raises(AveragingError, match=r"holds the weights of 1 validations, but the state of step 30 needs 3"):
        history.resume(30, validate_every=10)


def test_a_damaged_file_is_named(history: WeightHistory) -> None:
    (history.folder / "40.safetensors").write_bytes(b"half")
    with pytest.raises(AveragingError, match=r"40\.safetensors"):
        history.mean()
