"""What this machine does with a model, measured in the moments before work begins."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import NamedTuple

import torch

from app.engine.budget import is_out_of_memory
from app.engine.models import EngineModel
from model.search import BeamSearch, SearchOptions, translate

WARM_UP_SENTENCES = 16
PIECES = 16  # of a sentence that is measured with
STEPS = 3  # timed, after one that is not
FEWEST_SENTENCES, MOST_SENTENCES = 16, 1024
GAIN = 1.1  # what twice the rows, or other lanes, must bring to be worth their delay
MEASURING_SECONDS = 0.5  # then it goes by what it knows


class Calibration(NamedTuple):
    """How an engine is to work, and how fast that is."""

    lanes: int
    rows: int  # of the decoder, in all lanes together
    tokens_per_second: float  # source tokens, in all lanes together


def warm_up(loaded: EngineModel) -> None:
    """Translate once. Raises what the model raises."""
    last = loaded.model.config.source_vocabulary - 1
    translate(loaded.model, [[last] * 8] * WARM_UP_SENTENCES, SearchOptions(max_length=8), loaded.length_limit)


def calibrate(
    loaded: EngineModel, cores: int, lanes: int | None, rows: int | None, beat: Callable[[], None]
) -> Calibration:
    """Measure what is None; ``beat`` is called in between.

    Rows are doubled while that makes it faster by a tenth: more would only make every sentence wait longer. Lanes are
    one for all cores or one for each, whichever is faster with these rows; a single lane is quicker with a single
    sentence, so it is to lose by a tenth.
    """
    beam = SearchOptions().beam_size
    sentences = _sentences(loaded, lanes or 1, cores, beat) if rows is None else max(1, rows // beam)
    rows = rows or sentences * beam
    if lanes is not None:
        return Calibration(lanes, rows, _rate(loaded, sentences, lanes, cores))
    one = _rate(loaded, sentences, 1, cores)
    beat()
    many = _rate(loaded, sentences, cores, cores) if cores > 1 else 0.0
    return Calibration(cores, rows, many) if many > GAIN * one else Calibration(1, rows, one)


def _sentences(loaded: EngineModel, lanes: int, cores: int, beat: Callable[[], None]) -> int:
    """The fewest sentences with which twice as many would not be faster by a tenth."""
    began = time.monotonic()
    sentences, best = FEWEST_SENTENCES, _rate(loaded, FEWEST_SENTENCES, lanes, cores)
    while sentences < MOST_SENTENCES and time.monotonic() - began < MEASURING_SECONDS:
        try:
            rate = _rate(loaded, 2 * sentences, lanes, cores)
        except Exception as error:
            if is_out_of_memory(error):
                break
            raise
        beat()
        if rate < GAIN * best:
            break
        sentences, best = 2 * sentences, rate
    return sentences


def _rate(loaded: EngineModel, sentences: int, lanes: int, cores: int) -> float:
    """Source tokens a second of lanes with ``sentences`` in all, where a translation is as long as its source."""
    ready = threading.Barrier(lanes)

    def work(share: int) -> tuple[int, float]:
        torch.set_num_threads(max(1, cores // lanes))
        try:
            return _steps(loaded, share, ready)
        except Exception:
            ready.abort()  # the others need not wait
            raise

    shares = [max(1, len(range(lane, sentences, lanes))) for lane in range(lanes)]
    with ThreadPoolExecutor(lanes, thread_name_prefix="ferry-calibration") as pool:
        futures = [pool.submit(work, share) for share in shares]
        wait(futures)
    failures = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(failures, key=lambda item: isinstance(item, threading.BrokenBarrierError)):
        raise error  # the one that broke the barrier, not those who found it broken
    measured = [future.result() for future in futures]
    return sum(tokens for tokens, _ in measured) / max(seconds for _, seconds in measured)


def _steps(loaded: EngineModel, sentences: int, ready: threading.Barrier) -> tuple[int, float]:
    """Tokens that a search has advanced by, and in how many seconds."""
    search = BeamSearch(loaded.model, loaded.length_limit)
    source = [loaded.model.config.source_vocabulary - 1] * PIECES

    def refill() -> None:
        missing = sentences - search.active
        search.admit([source] * missing, [SearchOptions(max_length=2 * PIECES)] * missing)

    refill()
    search.step()
    ready.wait()
    tokens = 0
    seconds = 0.0
    for _ in range(STEPS):
        refill()  # what has ended, if the model says little of such a source
        began = time.perf_counter()
        tokens += search.active
        search.step()
        seconds += time.perf_counter() - began
    return tokens, seconds
