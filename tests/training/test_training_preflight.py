"""The largest batch is tried before the first step; what cannot fit is an error that names what does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from training import memory, preflight
from training.preflight import Memory, MemoryBudgetError, Shape, fit_into, largest_pair
from training.stop import Stop
from training.trainer import Trainer, fit

SHAPE = Shape(batch_tokens=10_000, longest=50)  # 200 pairs


def device(available: int | None, *, careful: bool, full_at: int = 10**9) -> tuple[Memory, list[int]]:
    """A device on which a pair takes 10 bytes and gradients 1,000; and the batches tried on it."""
    tried: list[int] = []

    def measure(pairs: int) -> int | None:
        tried.append(pairs)
        needed = 1000 + 10 * pairs
        return needed if needed <= full_at else None

    return Memory(measure, available, fixed=1000, careful=careful), tried


def test_a_batch_that_fits_gives_its_peak() -> None:
    simulated, _ = device(5000, careful=True)
    assert fit_into(simulated, SHAPE, moments=0).needed == 3000


def test_the_optimizers_moments_are_counted() -> None:
    simulated, _ = device(5000, careful=True)
    assert fit_into(simulated._replace(fixed=3000), SHAPE, moments=2000).needed == 5000


def test_where_memory_ends_without_an_error_nothing_is_run_that_would_not_fit() -> None:
    simulated, tried = device(2000, careful=True)
    with pytest.raises(MemoryBudgetError) as raised:
        fit_into(simulated, SHAPE, moments=0)
    assert max(tried) < 100
    budget = named_budget(raised)
    assert 1000 + 10 * (budget // 50) <= 2000
    assert budget > 0.75 * 100 * 50
    assert "extrapolated from a batch of 50 pairs" in str(raised.value)


def test_a_gpu_that_is_full_is_tried_until_a_batch_fits() -> None:
    simulated, _ = device(None, careful=False, full_at=1700)
    with pytest.raises(MemoryBudgetError, match="found by bisection") as raised:
        fit_into(simulated, SHAPE, moments=0)
    assert 0.9 * 70 * 50 <= named_budget(raised) <= 70 * 50


def test_the_named_budget_fits() -> None:
    simulated, _ = device(2000, careful=True)
    with pytest.raises(MemoryBudgetError) as raised:
        fit_into(simulated, SHAPE, moments=0)
    assert fit_into(simulated, SHAPE._replace(batch_tokens=named_budget(raised)), moments=0).needed <= 2000


def test_where_nothing_fits_the_error_says_so() -> None:
    simulated, _ = device(500, careful=False, full_at=500)
    with pytest.raises(MemoryBudgetError, match="not even one such pair"):
        fit_into(simulated, SHAPE, moments=0)


def test_no_batch_of_an_epoch_is_larger(recipe) -> None:
    made = recipe()
    trainer = Trainer(made, made.folder)
    shape = Shape(made.training.batch_tokens, largest_pair(trainer.corpus))
    side = shape.pairs * shape.longest
    for _ in range(trainer.batches.batches_per_epoch):
        batch = next(trainer.batches)
        assert max(batch.source.numel(), batch.target_output.numel()) <= shape.batch_tokens
        assert batch.source.shape[1] * batch.target_output.numel() <= shape.longest * side * shape.batch_tokens / side


def test_a_run_is_the_same_with_and_without(recipe) -> None:
    runs = [recipe(name, dropout=0.3, preflight=tried) for name, tried in (("with", True), ("without", False))]
    for made in runs:
        fit(made, resume=False, run_folder=made.folder)
    first, second = ((made.folder / "last.safetensors").read_bytes() for made in runs)
    assert first == second


def test_a_run_that_cannot_fit_takes_no_step(recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "available_memory", lambda: 1000)
    made = recipe()
    with pytest.raises(MemoryBudgetError, match=r"training\.batch_tokens: 200 allows"):
        Trainer(made, made.folder).run(Stop())
    assert not (made.folder / "metrics.jsonl").exists()


def test_the_peak_of_memory_is_seen() -> None:
    before = memory.resident_memory()
    memory.reset_peak_memory()
    torch.ones(32 << 20, dtype=torch.uint8).sum()
    assert memory.peak_memory() - before > 24 << 20


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cgroup/a/memory.max": "1000", "cgroup/a/memory.current": "700", "cgroup/a/memory.stat": "file 9"}, 300),
        ({"cgroup/a/memory.max": "max", "cgroup/a/memory.current": "700"}, 5 * 1024),
        (
            {
                "cgroup/memory/memory.limit_in_bytes": "1000",
                "cgroup/memory/memory.usage_in_bytes": "900",
                "cgroup/memory/memory.stat": "inactive_file 1\ntotal_inactive_file 50",
            },
            150,
        ),
    ],
)
def test_the_least_of_machine_and_control_group_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int
) -> None:
    for name, text in {"proc/meminfo": "MemAvailable: 5 kB", "proc/self/cgroup": "0::/a", **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(memory, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path / "cgroup")
    assert memory.available_memory() == expected


def named_budget(raised: pytest.ExceptionInfo[MemoryBudgetError]) -> int:
    found = re.search(r"batch_tokens that fits is (\d+)", str(raised.value))
    assert found is not None
    return int(found[1])
