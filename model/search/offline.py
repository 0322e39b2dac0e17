"""Many sentences translated at once, as fast as may be, in whatever order."""

from __future__ import annotations

from collections.abc import Sequence

from model.config import LengthLimit
from model.ensemble import Model
from model.search.beam_search import BeamSearch
from model.search.options import SearchOptions, check_sentence
from model.search.sentence import Hypothesis
from model.shortlist import Shortlist


def translate(
    model: Model,
    sources: Sequence[Sequence[int]],
    options: SearchOptions,
    length_limit: LengthLimit,
    token_budget: int = 8192,
    shortlist: Shortlist | None = None,
) -> list[list[Hypothesis]]:
    """Translate ``sources`` (ids without begin- or end-of-sentence) and return their hypotheses in order.

    Sentences of like length share a batch, refilled as sentences leave; ``token_budget`` bounds its padded source
    positions times beam size. Raises ValueError as :class:`BeamSearch` does, before anything is translated.
    """
    for source in sources:
        check_sentence(source, options, model.config)
    search = BeamSearch(model, length_limit, shortlist)
    waiting = sorted(range(len(sources)), key=lambda index: len(sources[index]))
    place: dict[int, int] = {}
    results: list[list[Hypothesis]] = [[] for _ in sources]
    while waiting or search.active:
        arrivals = _arrivals(search, sources, waiting, token_budget // options.beam_size)
        tickets = search.admit([sources[index] for index in arrivals], [options] * len(arrivals))
        place.update(zip(tickets, arrivals, strict=True))
        for finished in search.step():
            results[place.pop(finished.ticket)] = finished.hypotheses
    return results


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
