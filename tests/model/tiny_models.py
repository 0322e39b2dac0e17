"""Models of a few thousand weights, small enough to be searched in milliseconds, lively enough to disagree."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch

from model.config import LengthLimit, LengthPenalty, ModelConfig
from model.search import BeamSearch, Hypothesis, SearchOptions
from model.seq2seq import Seq2Seq

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


def alone(model: Seq2Seq, source: Sequence[int], options: SearchOptions) -> list[Hypothesis]:
    """The result of a sentence in a search of its own."""
    search = BeamSearch(model, LIMIT)
    (ticket,) = search.admit([source], [options])
    return run(search)[ticket]
