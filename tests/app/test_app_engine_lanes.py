"""Several lanes, and how their number and the size of the batch are chosen."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
import torch
from engine_harness import PATIENCE_SECONDS, Gate, alone, job, loaded, long_jobs, mixed_jobs, running, until

from app.engine import Engine, Outcome, SilentObserver, StepReport, calibration
from app.engine.calibration import calibrate
from app.engine.models import EngineModel


class Ear(SilentObserver):
    """Hears on which threads steps are taken, and with how many of torch's."""

    def __init__(self) -> None:
        self.threads: dict[str, int] = {}

    def stepped(self, report: StepReport) -> None:
        name = f"{threading.current_thread().name} {threading.get_ident()}"
        self.threads[name] = torch.get_num_threads()


def test_two_lanes_translate_with_a_thread_each_and_mix_nothing_up(tiny_checkpoint: Path) -> None:
    checkpoint, ear = loaded(tiny_checkpoint), Ear()
    jobs = mixed_jobs(100)

    async def all_at_once(engine: Engine) -> list[Outcome]:
        return await asyncio.gather(*(engine.translate("en-de", [item], None) for item in jobs))

    with running(checkpoint, lanes=2, threads=2, observer=ear, cache_tokens=10_000) as engine:
        assert engine.lanes == 2
        outcomes = asyncio.run(all_at_once(engine))
        assert engine.queued_tokens == 0 and engine.active_sentences == 0
    assert [outcome.results[0].hypotheses[0].pieces for outcome in outcomes] == [
        alone(checkpoint, item)[0].pieces for item in jobs
    ]
    assert list(ear.threads.values()) == [1, 1]


def test_lanes_have_equally_many_sentences(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    gate = Gate(checkpoint)

    async def fill(engine: Engine) -> list[int]:
        gate.close()
        task = asyncio.create_task(engine.translate("en-de", long_jobs(10), None))
        await until(lambda: engine.active_sentences == 10)
        shares = [lane.active for lane in engine._lanes.each]
        gate.open()
        await task
        return shares

    with running(checkpoint, lanes=2, threads=2) as engine:
        assert asyncio.run(fill(engine)) == [5, 5]


def test_a_stopped_engine_leaves_no_lane_behind(tiny_checkpoint: Path) -> None:
    before = threading.enumerate()
    with running(loaded(tiny_checkpoint), lanes=2, threads=2) as engine:
        asyncio.run(engine.translate("en-de", mixed_jobs(5), None))
    new = {*threading.enumerate()} - {*before}
    assert not [thread for thread in new if thread.name in ("ferry-engine", "ferry-lane")]


def test_there_are_never_more_lanes_than_threads(tiny_checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="3 lanes and 2 threads"), running(loaded(tiny_checkpoint), lanes=3, threads=2):
        pass


def test_an_engine_that_measures_works(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)
    with running(checkpoint, lanes=None, batch_rows=None) as engine:
        assert engine.lanes == 1
        assert engine.tokens_per_second > 0
        outcome = asyncio.run(engine.translate("en-de", [job(5)], None))
    assert outcome.results[0].hypotheses[0].pieces == alone(checkpoint, job(5))[0].pieces


@pytest.fixture
def measured(tiny_checkpoint: Path) -> EngineModel:
    checkpoint = loaded(tiny_checkpoint)
    return EngineModel(checkpoint.model, checkpoint.config.length_limit)


@pytest.mark.parametrize(("many", "expected"), [(0.6, 1), (0.7, 4), (1.2, 4)])
def test_there_are_lanes_unless_one_is_clearly_faster(
    measured: EngineModel, monkeypatch: pytest.MonkeyPatch, many: float, expected: int
) -> None:
    monkeypatch.setattr(
        calibration, "_rate", lambda loaded, sentences, lanes, cores: 100.0 * (many if lanes > 1 else 1)
    )
    plan = calibrate(measured, 4, None, 640, lambda: None)
    assert plan.lanes == expected and plan.rows == 640
    assert plan.tokens_per_second == pytest.approx(100 if expected == 1 else 100 * many)


@pytest.mark.parametrize("dip", [150.0, 60.0])  # something else had the cores for a moment
def test_the_batch_is_as_small_as_nearly_the_best_rate_allows(
    measured: EngineModel, monkeypatch: pytest.MonkeyPatch, dip: float
) -> None:
    rates = {64: dip, 128: 180.0, 256: 190.0}
    monkeypatch.setattr(calibration, "MEASURING_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(calibration, "_rate", lambda loaded, sentences, lanes, cores: rates[sentences])
    assert calibrate(measured, 1, 1, None, lambda: None) == (1, 128 * 5, 180.0)


def test_a_batch_that_could_not_be_measured_in_time_has_the_usual_size(
    measured: EngineModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "MEASURING_SECONDS", 0.0)
    monkeypatch.setattr(calibration, "_rate", lambda loaded, sentences, lanes, cores: 100.0)
    assert calibrate(measured, 1, 1, None, lambda: None).rows == calibration.UNMEASURED_SENTENCES * 5


@pytest.mark.parametrize(("held", "expected"), [(3, 2), (32, 32), (64, 64), (200, 128)])
def test_the_batch_is_no_larger_than_memory_holds(
    measured: EngineModel, monkeypatch: pytest.MonkeyPatch, held: int, expected: int
) -> None:
    def rate(loaded: EngineModel, sentences: int, lanes: int, cores: int) -> float:
        if sentences > held:
            raise MemoryError
        return float(sentences)

    monkeypatch.setattr(calibration, "MEASURING_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(calibration, "_rate", rate)
    assert calibrate(measured, 1, 1, None, lambda: None).rows == expected * 5


def test_where_memory_holds_no_sentence_there_is_no_batch(
    measured: EngineModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rate(*_: object) -> float:
        raise MemoryError

    monkeypatch.setattr(calibration, "_rate", rate)
    with pytest.raises(MemoryError):
        calibrate(measured, 1, 1, None, lambda: None)


def test_a_model_that_fails_while_lanes_are_measured_fails_for_what_it_is(tiny_checkpoint: Path) -> None:
    checkpoint = loaded(tiny_checkpoint)

    def fails(*_: object) -> None:
        raise RuntimeError("no such kernel")

    checkpoint.model.step = fails  # type: ignore[assignment, method-assign]
    with pytest.raises(RuntimeError, match="no such kernel"):
        calibrate(EngineModel(checkpoint.model, checkpoint.config.length_limit), 2, 2, 640, lambda: None)
