"""Two processes learn what one would from all of their batches, and go the same way whatever befalls one of them."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_jobs import RANKS, gradient, work
from safetensors.torch import load_file
from tiny_runs import begin, entries, tiny_recipe

from tests.conftest import write_checkpoint
from training import distributed
from training.averaging import WeightHistory
from training.config import Recipe
from training.device import DeviceError
from training.distributed import Group, join_group
from training.prepare import open_tokenizers
from training.trainer import FitResult


@pytest.fixture(scope="module")
def ranks(
    capitals: Path, prepared: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Recipe], list[dict[str, Any]]]:
    """The recipes of the jobs, and what each of two gloo processes found in them."""
    folder = tmp_path_factory.mktemp("ranks")
    teacher = write_checkpoint(folder / "teacher", open_tokenizers(prepared), "en", "de", seed=5)
    dropped: dict[str, Any] = {"dropout": 0.3, "validate_every": 4, "accumulate": 2}
    mixed = {"r_drop": 2.0, "average_last": 2, "init_from": folder / "whole", "freeze": ("encoder.*",), **dropped}
    mixed["word_distillation"] = {"teachers": (teacher,)}
    mixed["validate_every"] = 2
    options: dict[str, dict[str, Any]] = {
        "gradient": {"accumulate": 2},
        "taught_gradient": {"accumulate": 2, "word_distillation": {"teachers": (teacher,)}},
        "whole": dropped,
        "broken": dropped,
        "poisoned": {"preflight": False},
        "mixed_whole": mixed,
        "mixed_broken": mixed,
    }
    jobs = {name: begin(tiny_recipe(capitals, folder, name, **options[name]), prepared) for name in options}
    recipes = {name: job.model_dump_json() for name, job in jobs.items()}
    torch.multiprocessing.spawn(work, (free_port(), folder, recipes), nprocs=RANKS)
    return jobs, [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(RANKS)]


@pytest.mark.parametrize("job", ["gradient", "taught_gradient"])
def test_the_gradient_is_that_of_one_process_on_the_joined_batches(ranks, job, capitals, prepared, tmp_path) -> None:
    taught = ranks[0][job].training.word_distillation
    made = tiny_recipe(capitals, tmp_path, accumulate=2 * RANKS, word_distillation=taught)
    together = gradient(begin(made, prepared), Group())
    for found in ranks[1]:
        assert found[job].keys() == together.keys()
        for name, expected in together.items():
            torch.testing.assert_close(found[job][name], expected, rtol=0, atol=1e-6)


def test_ranks_hold_the_same_weights_and_draw_different_dropout(ranks) -> None:
    first, second = (found["whole"] for found in ranks[1])
    assert all(torch.equal(first["weights"][name], second["weights"][name]) for name in first["weights"])
    assert first["draw"] != second["draw"]


def test_a_signal_to_one_rank_stops_all_after_the_same_step(ranks) -> None:
    results = [FitResult(*found["stopped"]["result"]) for found in ranks[1]]
    assert [(result.steps, result.interrupted) for result in results] == [(3, True)] * RANKS


def test_ranks_resume_bit_equal(ranks) -> None:
    for found in ranks[1]:
        whole, resumed = found["whole"], found["resumed"]
        assert all(torch.equal(whole["weights"][name], resumed["weights"][name]) for name in whole["weights"])
        assert whole["draw"] == resumed["draw"]


def test_ranks_resume_bit_equal_with_r_drop_teachers_averaging_transfer_and_frozen_layers(ranks) -> None:
    for found in ranks[1]:
        whole, resumed = found["mixed_whole"], found["mixed_resumed"]
        assert FitResult(*found["mixed_stopped"]["result"]).steps == 5
        assert all(torch.equal(whole["weights"][name], resumed["weights"][name]) for name in whole["weights"])
        assert whole["result"][:3] == resumed["result"][:3]


def test_frozen_layers_of_all_ranks_stay_those_of_the_run_before(ranks) -> None:
    jobs, results = ranks
    before = load_file(jobs["whole"].folder / "best.safetensors")
    for found in results:
        after = found["mixed_whole"]["weights"]
        same = {name for name in before if torch.equal(before[name], after[name])}
        assert same == {name for name in before if name.startswith("encoder.")}


def test_the_mean_of_validations_is_taken_over_the_run_of_all_ranks(ranks) -> None:
    jobs, _ = ranks
    kept = sorted(int(path.stem) for path in WeightHistory(jobs["mixed_broken"].folder, 2).folder.glob("*.safetensors"))
    assert kept == [4, 6]


def test_a_step_that_is_not_finite_on_one_rank_is_skipped_by_all(ranks) -> None:
    results = [FitResult(*found["poisoned"]["result"]) for found in ranks[1]]
    assert [result.skipped for result in results] == [1, 1]
    first, second = (found["poisoned"]["weights"] for found in ranks[1])
    assert all(torch.equal(first[name], second[name]) and first[name].isfinite().all() for name in first)


def test_the_first_rank_alone_writes(ranks) -> None:
    jobs, _ = ranks
    assert [line["step"] for line in entries(jobs["whole"], "step")] == list(range(1, 7))


def test_more_ranks_than_gpus_is_an_error(recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(distributed, "pick_device", lambda name: "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(DeviceError, match="--nproc-per-node=gpu"), join_group(recipe()):
        pass


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
