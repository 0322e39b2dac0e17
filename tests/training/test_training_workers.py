"""Worker processes: results in order, bounded, light, and failures told as if there were no workers."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from worker_jobs import chatter, die, loaded_modules, refuse_odd, slow_first

from training.workers import WorkerError, in_order


@pytest.fixture(autouse=True)
def workers_from_the_first_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.workers._ALONE", 0)


def test_results_come_in_the_order_of_the_tasks_from_other_processes() -> None:
    found = list(in_order(slow_first, range(12), workers=2))
    assert [task for task, _ in found] == [result for _, (result, _) in found] == list(range(12))
    assert os.getpid() not in {process for _, (_, process) in found}


def test_a_slow_task_does_not_let_the_others_pile_up() -> None:
    taken = itertools.count()
    tasks = (next(taken) for _ in range(100))
    results = in_order(slow_first, tasks, workers=2)
    next(results)
    assert next(taken) <= 8
    results.close()


def test_few_tasks_are_done_without_starting_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.workers._ALONE", 3)
    assert {process for _, (_, process) in in_order(slow_first, range(3), workers=2)} == {os.getpid()}


def test_a_worker_loads_neither_torch_nor_the_main_program() -> None:
    [(_, modules)] = in_order(loaded_modules, [0], workers=2)
    assert "training.encoding" in modules
    assert {"torch", "safetensors", "pytest"} & {*modules} == set()  # pytest is the main program here


def test_a_workers_error_is_raised_behind_the_results_before_it() -> None:
    results = in_order(refuse_odd, [0, 2, 4, 5, 7], workers=2)
    assert [result for _, result in itertools.islice(results, 3)] == [0, 2, 4]
    with pytest.raises(LookupError, match="5 is odd"):
        next(results)


def test_an_error_in_the_tasks_waits_for_the_results_before_it() -> None:
    def tasks() -> Iterator[int]:
        yield from (0, 1)
        raise ValueError("cut short")

    with pytest.raises(LookupError, match="1 is odd"):
        list(in_order(refuse_odd, tasks(), workers=2))
    with pytest.raises(ValueError, match="cut short"):
        list(in_order(slow_first, tasks(), workers=2))


def test_a_killed_worker_is_told() -> None:
    with pytest.raises(WorkerError, match=r"signal 9, perhaps for want of memory; try fewer of them \(data\.workers\)"):
        list(in_order(die, range(4), workers=2))


def test_what_a_worker_prints_does_not_stand_among_the_results(capfd: pytest.CaptureFixture[str]) -> None:
    assert [result for _, result in in_order(chatter, range(3), workers=2)] == [0, 1, 2]
    printed = capfd.readouterr()  # what measures coverage may warn among it
    assert (printed.out, printed.err.count("hello")) == ("", 3)  # two may write at once, and their line ends come later


@pytest.mark.parametrize("ending", [lambda results: results.close(), list])
def test_no_worker_outlives_its_work(ending: Callable[[object], object]) -> None:
    results = in_order(slow_first, range(20), workers=2)
    _, (_, process) = next(results)
    ending(results)
    assert not Path(f"/proc/{process}").exists()
