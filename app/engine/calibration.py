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
from model.search import STRIDE, SearchOptions, translate

WARM_UP_SENTENCES = 16
PIECES = 8  # of a sentence that is measured with
STEPS = 6  # timed, after one that is not
# What is around a step in a service, Python's lock and those that join, takes as long for few as for many.
FEWEST_SENTENCES = 64
MOST_SENTENCES = {"cpu": 256, "cuda": 4096}  # a step's logits take 200 kB a sentence: 5 rows of 10,000 pieces
UNMEASURED_SENTENCES = 128  # of a batch, where there is no time or no model to measure
MANY_SENTENCES = 128  # from here on a batch that is little better than half of it ends the measuring
NEARLY = 0.9  # of the best rate, for a smaller batch in which every sentence waits less
# What one lane must be ahead by when nothing else runs. In a service the event loop wants a core as well, and threads
# that share an operation wait for the one that has none: app/README.md has figures.
ADVANTAGE = 1.5
MEASURING_SECONDS = 0.8


class Calibration(NamedTuple):
    """How an engine is to work, and how fast that is."""

    lanes: int
    rows: int  # of the decoder, in all lanes together
    tokens_per_second: float  # source tokens, in all lanes together


def warm_up(loaded: EngineModel) -> None:
    """Translate once. Raises what the model raises."""
    model, length_limit, shortlist = loaded
    sources = [[model.config.source_vocabulary - 1] * 8] * WARM_UP_SENTENCES
    translate(model, sources, SearchOptions(max_length=8), length_limit, shortlist=shortlist, lanes=1)


def calibrate(
    loaded: EngineModel, cores: int, lanes: int | None, rows: int | None, beat: Callable[[], None]
) -> Calibration:
    """Measure what is None; ``beat`` is called in between.

    Rows are as few as reach nine tenths of the best rate: more would only make every sentence wait longer. Lanes are
    one for each core, or one for all where that is faster by half. What depends least on whatever else runs here is
    measured first: a lane with one thread waits for no other. A GPU has one lane.
    """
    beam = SearchOptions().beam_size
    many = lanes or (cores if loaded.model.device.type == "cpu" else 1)
    if rows is None:
        sentences, rate = _worthwhile(loaded, many, cores, beat)
        rows = sentences * beam
    else:
        sentences = max(1, rows // beam)
        rate = _rate(loaded, sentences, many, cores)
    if lanes is None and many > 1:
        beat()
        single = _rate(loaded, sentences, 1, cores)
        if single >= ADVANTAGE * rate:
            return Calibration(1, rows, single)
    return Calibration(many, rows, rate)


def _worthwhile(loaded: EngineModel, lanes: int, cores: int, beat: Callable[[], None]) -> tuple[int, float]:
    """The fewest sentences that are nearly as fast as the best number of them, and their rate."""
    began = time.monotonic()
    most = MOST_SENTENCES.get(loaded.model.device.type, FEWEST_SENTENCES)
    rates: dict[int, float] = {}
    sentences = FEWEST_SENTENCES
    while sentences <= most and (not rates or time.monotonic() - began < MEASURING_SECONDS):
        beat()
        try:
            rates[sentences] = _rate(loaded, sentences, lanes, cores)
        except Exception as error:
            if not is_out_of_memory(error) or sentences == 1:
                raise
            # Nothing larger than what went well; if nothing has, the largest half that does.
            most = max(rates, default=sentences // 2)
            sentences = most + 1 if rates else most
            continue
        if sentences >= MANY_SENTENCES and rates.get(sentences // 2, 0.0) >= NEARLY * rates[sentences]:
            most = sentences
        sentences *= 2
    enough = NEARLY * max(rates.values())
    chosen = next(number for number, rate in rates.items() if rate >= enough)
    if chosen == max(rates) and sentences <= most:  # time ran out before it was fast enough
        return max(chosen, UNMEASURED_SENTENCES), rates[chosen]
    return chosen, rates[chosen]


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
    """Tokens that a search has advanced by, as the engine steps, and in how many seconds."""
    search = loaded.search()
    source = [loaded.model.config.source_vocabulary - 1] * PIECES

    def refill() -> None:
        missing = sentences - search.active
        search.admit([source] * missing, [SearchOptions(max_length=2 * PIECES)] * missing)

    refill()
    search.step()
    ready.wait()
    tokens = 0
    seconds = 0.0
    until = search.steps + STEPS
    while search.steps < until:
        refill()  # what has ended, if the model says little of such a source
        active, steps, began = search.active, search.steps, time.perf_counter()
        search.step(STRIDE)
        seconds += time.perf_counter() - began
        tokens += active * (search.steps - steps)
    return tokens, seconds
