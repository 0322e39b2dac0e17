"""Law 2: the search equals a plain numpy beam search, and with a beam as large as the space exhaustive search."""

from __future__ import annotations

import pytest
from oracle import beam_search, exhaustive_search, next_piece_of
from tiny_models import LIMIT, alone, random_options, random_sources, tiny_model, uniform_model

from model.cells import CELLS
from model.config import LengthPenalty
from model.search import Hypothesis, SearchOptions
from model.seq2seq import Seq2Seq

EOS = 3


def same(found: list[Hypothesis], expected: list[Hypothesis]) -> None:
    """The same hypotheses in the same order, with the same figures."""
    assert [item.pieces for item in found] == [item.pieces for item in expected]
    for item, other in zip(found, expected, strict=True):
        assert item.score == pytest.approx(other.score, abs=1e-5)
        assert item.log_probability == pytest.approx(other.log_probability, abs=1e-5)


def limit_of(source: list[int], options: SearchOptions) -> int:
    limit = LIMIT.limit(len(source)) if options.max_length is None else options.max_length
    return max(limit, len(options.prefix))


def equals_the_oracle(model: Seq2Seq, source: list[int], options: SearchOptions) -> None:
    expected = beam_search(next_piece_of(model, source), options, limit_of(source, options), EOS)
    same(alone(model, source, options), expected)


@pytest.mark.parametrize("seed", range(30))
def test_it_equals_the_oracle_with_any_options(seed: int) -> None:
    """Beams of 1 to 5, n best, every penalty, limits from 0, forced prefixes."""
    (source,) = random_sources(seed, 1)
    equals_the_oracle(tiny_model(seed), source, random_options(seed))


@pytest.mark.parametrize("kind", ["power", "gnmt", "none"])
@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0, 3.0])
@pytest.mark.parametrize("n_best", [1, 4])
def test_it_equals_the_oracle_with_each_penalty(kind: str, alpha: float, n_best: int) -> None:
    penalty = LengthPenalty.model_validate({"kind": kind, "alpha": alpha})
    options = SearchOptions(beam_size=4, n_best=n_best, length_penalty=penalty)
    for seed in range(4):
        (source,) = random_sources(seed, 1)
        equals_the_oracle(tiny_model(seed), source, options)


@pytest.mark.parametrize("attention", ["additive", "dot"])
@pytest.mark.parametrize("input_feeding", [False, True])
def test_it_equals_the_oracle_with_other_models(attention: str, input_feeding: bool) -> None:
    model = tiny_model(attention=attention, input_feeding=input_feeding, tied="none", decoder_layers=1)
    for source in random_sources(1, 3):
        equals_the_oracle(model, source, SearchOptions(beam_size=3, n_best=3))


@pytest.mark.parametrize("cell", CELLS)
def test_it_equals_the_oracle_with_every_cell(cell: str) -> None:
    model = tiny_model(cell=cell, self_attention=True, lexical_shortcut=True)
    for source in random_sources(6, 3):  # no two hypotheses of theirs are so close that rounding tells them apart
        equals_the_oracle(model, source, SearchOptions(beam_size=3, n_best=3))


@pytest.mark.parametrize("vocabulary", [300, 307])
def test_it_equals_the_oracle_with_a_vocabulary_in_chunks(vocabulary: int) -> None:
    model = tiny_model(6, vocabulary=vocabulary)
    for source in random_sources(1, 2):
        equals_the_oracle(model, source, SearchOptions(beam_size=4, n_best=4, max_length=5))


@pytest.mark.parametrize("beam_size", [1, 3, 7])
def test_it_equals_the_oracle_where_everything_ties(beam_size: int) -> None:
    options = SearchOptions(beam_size=beam_size, n_best=beam_size, max_length=3)
    equals_the_oracle(uniform_model(), [5, 6], options)


@pytest.mark.parametrize("seed", range(6))
def test_a_beam_as_large_as_the_space_is_exhaustive(seed: int) -> None:
    """Three pieces may follow at each of three places: 40 hypotheses."""
    model = tiny_model(seed, vocabulary=6)
    options = SearchOptions(beam_size=40, n_best=40, max_length=3)
    expected = exhaustive_search(next_piece_of(model, [4, 5]), options, 3, EOS)
    assert len(expected) == 40
    same(alone(model, [4, 5], options), expected)
