"""Models of a few thousand weights, small enough to be searched in milliseconds, lively enough to disagree."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from model.config import LengthLimit, LengthPenalty, ModelConfig
from model.ensemble import Model
from model.search import BeamSearch, Hypothesis, SearchOptions
from model.seq2seq import Seq2Seq
from model.shortlist import Shortlist

VOCABULARY = 12
LIMIT = LengthLimit(ratio_mean=1.0, ratio_deviation=0.0, margin=2, cap=9)


def tiny_model(
    seed: int = 0, *, vocabulary: int = VOCABULARY, dtype: torch.dtype = torch.float64, **choices: Any
) -> Seq2Seq:
    """A model with random weights, large enough that it prefers some pieces clearly; choices are ModelConfig's.

    In float64 what a row computes is the same to float32 whatever stands in the other rows.
    """
    settings: dict[str, Any] = {"embedding": 6, "hidden": 8, "heads": 2, **choices}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Seq2Seq(ModelConfig(source_vocabulary=vocabulary, target_vocabulary=vocabulary, **settings))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn_like(parameter) * 0.5
            model.output_bias[model.config.eos] += 1.5  # or it would rarely end before the limit
    return model.to(dtype).eval().requires_grad_(False)


def uniform_model() -> Seq2Seq:
    """A model that finds every piece equally likely, always: nothing but ties."""
    model = tiny_model()
    for parameter in model.parameters():
        parameter.zero_()
    return model


def random_sources(seed: int, count: int, longest: int = 7) -> list[list[int]]:
    """Sources of various lengths, without reserved ids."""
    choose = random.Random(seed)
    return [[choose.randrange(4, VOCABULARY) for _ in range(choose.randint(1, longest))] for _ in range(count)]


def random_options(seed: int) -> SearchOptions:
    """Options of every kind."""
    choose = random.Random(seed)
    beam_size = choose.choice([1, 2, 3, 5])
    penalty = LengthPenalty(kind=choose.choice(["power", "gnmt", "none"]), alpha=choose.choice([0.5, 1.0, 2.0]))
    return SearchOptions(
        beam_size=beam_size,
        n_best=choose.randint(1, beam_size),
        length_penalty=penalty,
        max_length=choose.choice([None, None, 0, 3, 6]),
        prefix=tuple(choose.choice([(), (), (5,), (7, 4, 9)])),
    )


def run(search: BeamSearch) -> dict[int, list[Hypothesis]]:
    """Step until nothing is under way; results by ticket."""
    results = {}
    while search.active:
        results.update({finished.ticket: finished.hypotheses for finished in search.step()})
    return results


def alone(
    model: Model, source: Sequence[int], options: SearchOptions, rows: Shortlist | None = None
) -> list[Hypothesis]:
    """The result of a sentence in a search of its own."""
    search = BeamSearch(model, LIMIT, rows)
    (ticket,) = search.admit([source], [options])
    return run(search)[ticket]


def close(found: list[Hypothesis], expected: list[Hypothesis], tolerance: float = 1e-5) -> None:
    """The same hypotheses with the same scores."""
    assert [item.pieces for item in found] == [item.pieces for item in expected]
    assert [item.score for item in found] == pytest.approx([item.score for item in expected], abs=tolerance)


def admitted_over_time(model: Model, seed: int, count: int, rows: Shortlist | None = None) -> None:
    """Sentences with options of every kind join a search at random steps, in random order, some to be cancelled.

    Each has to come to what it comes to alone.
    """
    choose = random.Random(seed)
    search = BeamSearch(model, LIMIT, rows)
    sources = random_sources(seed, count)
    waiting = {index: choose.randrange(8) for index in range(count)}
    tickets: dict[int, int] = {}
    results: dict[int, list[Hypothesis]] = {}
    cancelled = set()
    for step in range(40):
        arrivals = [index for index, when in waiting.items() if when == step]
        choose.shuffle(arrivals)
        options = [random_options(seed + index) for index in arrivals]
        admitted = search.admit([sources[index] for index in arrivals], options)
        tickets.update(zip(admitted, arrivals, strict=True))
        for finished in search.step():
            results[tickets.pop(finished.ticket)] = finished.hypotheses
        if tickets and choose.random() < 0.15:
            ticket = choose.choice(list(tickets))
            search.cancel([ticket])
            cancelled.add(tickets.pop(ticket))
    assert results.keys() | cancelled == set(range(count))
    for index, found in results.items():
        close(found, alone(model, sources[index], random_options(seed + index), rows))
