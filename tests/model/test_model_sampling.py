"""Sampling draws from the model's own distribution, each sentence by its own seed."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from oracle import next_piece_of
from tiny_models import LIMIT, alone, random_sources, tiny_model

from model.config import LengthLimit
from model.ensemble import Ensemble
from model.sampling import sample
from model.search import SearchOptions

MODEL = tiny_model(3)
ONE_PIECE = LengthLimit(ratio_mean=1.0, ratio_deviation=0.0, margin=0, cap=1)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_pieces_are_drawn_as_often_as_they_are_likely(temperature: float) -> None:
    """Of 4,000 first pieces each comes up within four standard deviations of its expected count."""
    count, source = 4000, [5, 6, 7]
    drawn = sample(MODEL, [source] * count, range(count), ONE_PIECE, temperature, token_budget=10**6)
    found = Counter(pieces[0] if pieces else MODEL.config.eos for pieces in drawn)
    likelihood = np.exp(next_piece_of(MODEL, source)(()) / temperature)
    for piece, share in enumerate(likelihood / likelihood.sum()):
        assert abs(found[piece] - count * share) <= 4 * math.sqrt(count * share * (1 - share))


def test_a_cold_sample_is_greedy_search() -> None:
    sources = random_sources(1, 12)
    drawn = sample(MODEL, sources, range(12), LIMIT, temperature=1e-6)
    assert drawn == [alone(MODEL, source, SearchOptions(beam_size=1))[0].pieces for source in sources]


@pytest.mark.parametrize("token_budget", [1, 30, 8192])
def test_a_sentence_depends_on_its_seed_and_not_on_its_batch_mates(token_budget: int) -> None:
    sources, seeds = random_sources(2, 12), range(100, 112)
    together = sample(MODEL, sources, seeds, LIMIT, token_budget=token_budget)
    assert together == [sample(MODEL, [source], [seed], LIMIT)[0] for source, seed in zip(sources, seeds, strict=True)]
    assert together != sample(MODEL, sources, range(12), LIMIT)


def test_nothing_is_longer_than_its_limit_and_nothing_reserved_is_drawn() -> None:
    model = tiny_model(4)
    model.output_bias[model.config.pad] = model.output_bias[model.config.bos] = 50.0
    sources = random_sources(3, 30)
    drawn = sample(model, sources, range(30), LIMIT, temperature=5.0)
    assert all(len(pieces) <= LIMIT.limit(len(source)) for pieces, source in zip(drawn, sources, strict=True))
    assert not {model.config.pad, model.config.bos, model.config.eos} & {piece for pieces in drawn for piece in pieces}


def test_an_ensemble_can_be_drawn_from() -> None:
    sources = random_sources(5, 4)
    both = Ensemble([MODEL, tiny_model(6, attention="dot", input_feeding=True)])
    assert sample(Ensemble([MODEL, MODEL]), sources, range(4), LIMIT) == sample(MODEL, sources, range(4), LIMIT)
    assert sample(both, sources, range(4), LIMIT) != sample(MODEL, sources, range(4), LIMIT)


def test_what_cannot_be_drawn_from_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature is 0"):
        sample(MODEL, [[5]], [1], LIMIT, temperature=0)
    with pytest.raises(ValueError, match="empty"):
        sample(MODEL, [[5], []], [1, 2], LIMIT)
    spoilt = tiny_model(1)
    spoilt.output_bias[5] = torch.nan
    with pytest.raises(ArithmeticError, match="no numbers"):
        sample(spoilt, [[5]], [1], LIMIT)
