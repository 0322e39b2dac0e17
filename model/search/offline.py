"""Many sentences translated at once, as fast as may be, in whatever order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import torch

from model.config import LengthLimit
from model.ensemble import Model
from model.search.beam_search import STRIDE, BeamSearch
from model.search.options import SearchOptions, check_sentence
from model.search.sentence import Hypothesis
from model.shortlist import Shortlist

Found = dict[int, list[Hypothesis]]  # by the number of the sentence


def translate(
    model: Model,
    sources: Sequence[Sequence[int]],
    options: SearchOptions,
    length_limit: LengthLimit,
    token_budget: int = 8192,
    shortlist: Shortlist | None = None,
    lanes: int | None = None,
) -> list[list[Hypothesis]]:
    """Translate ``sources`` (ids without begin- or end-of-sentence) and return their hypotheses in order.

    Sentences of like length share a batch, refilled as sentences leave; ``token_budget`` bounds padded source positions
    times beam size. As many searches as ``lanes`` go on side by side, each with its share of the sentences, the budget
    and torch's threads; by default, on a CPU, one for each thread: a step is too short for threads to share it well.
    Raises ValueError as :class:`BeamSearch` does, before anything is translated.
    """
    for source in sources:
        check_sentence(source, options, model.config)
    threads = torch.get_num_threads()
    wanted = lanes or (threads if model.device.type == "cpu" else 1)
    count = max(1, min(wanted, len(sources)))
    order = sorted(range(len(sources)), key=lambda index: len(sources[index]))
    # Dealt out beforehand, so that the same sentences always share a batch.
    parts = [order[lane::count] for lane in range(count)]
    positions = token_budget // options.beam_size // count
    stopped = threading.Event()

    def work(part: list[int]) -> Found:
        try:
            return _translate(BeamSearch(model, length_limit, shortlist), sources, part, options, positions, stopped)
        except BaseException:
            stopped.set()
            raise

    found = [work(parts[0])] if count == 1 else _side_by_side(work, parts, threads, stopped)
    results = dict(chain.from_iterable(part.items() for part in found))
    return [results[index] for index in range(len(sources))]


def _side_by_side(
    work: Callable[[list[int]], Found], parts: Sequence[list[int]], threads: int, stopped: threading.Event
) -> list[Found]:
    """``work`` on all ``parts`` at once, each on a thread with its share of torch's."""
    share = max(1, threads // len(parts))
    try:
        with ThreadPoolExecutor(len(parts), "ferry-search", torch.set_num_threads, (share,)) as pool:
            futures = [pool.submit(work, part) for part in parts]
            try:
                return [future.result() for future in futures]
            finally:
                stopped.set()  # Ctrl-C, or another's error: the others need not finish
    finally:
        torch.set_num_threads(threads)  # what new threads begin with is that of whoever set it last


def _translate(
    search: BeamSearch,
    sources: Sequence[Sequence[int]],
    waiting: list[int],
    options: SearchOptions,
    positions: int,
    stopped: threading.Event,
) -> Found:
    """Translate the sentences that ``waiting`` numbers, shortest first; it is emptied."""
    place: dict[int, int] = {}
    found: Found = {}
    while (waiting or search.active) and not stopped.is_set():
        arrivals = _arrivals(search, sources, waiting, positions)
        tickets = search.admit([sources[index] for index in arrivals], [options] * len(arrivals))
        place.update(zip(tickets, arrivals, strict=True))
        for finished in search.step(STRIDE):
            found[place.pop(finished.ticket)] = finished.hypotheses
    return found


def _arrivals(search: BeamSearch, sources: Sequence[Sequence[int]], waiting: list[int], positions: int) -> list[int]:
    """Take from ``waiting``, longest first, what fits into ``positions`` padded source positions.

    A refill waits until a quarter of the positions is free: small admissions cost an encoder call each.
    """
    if search.padded_tokens * 4 > positions * 3:
        return []
    arrivals: list[int] = []
    longest = 0
    while waiting:
        longest = max(longest, len(sources[waiting[-1]]) + 1, search.longest_source)
        if arrivals and longest * (len(arrivals) + 1 + search.active) > positions:
            break
        if search.active and not arrivals and longest * (1 + search.active) > positions:
            break
        arrivals.append(waiting.pop())
    return arrivals
