"""Several models decode as one: their mean distribution, whatever their sizes, under the laws of the search."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from oracle import NextPiece, beam_search, next_piece_of
from tiny_models import LIMIT, VOCABULARY, alone, random_options, random_sources, run, tiny_model

from model.ensemble import Ensemble, EnsembleError
from model.precision import Precision, prepare
from model.search import BeamSearch, Hypothesis, SearchOptions, translate
from model.seq2seq import Seq2Seq

EOS = 3
# Three members of which no two are alike in cell, size, depth, attention or what their state holds.
MEMBERS = [
    tiny_model(1),
    tiny_model(2, cell="gru", hidden=12, embedding=8, attention="additive", decoder_layers=1, tied="none"),
    tiny_model(3, cell="ssru", hidden=4, attention="dot", input_feeding=True, decoder_layers=3),
]
ENSEMBLE = Ensemble(MEMBERS)


def mean_of(models: list[Seq2Seq], source: list[int]) -> NextPiece:
    """Logarithm of the arithmetic mean of the models' probabilities, in numpy."""
    each = [next_piece_of(model, source) for model in models]

    @cache
    def next_piece(pieces: tuple[int, ...]) -> NDArray[np.float32]:
        probabilities = [np.exp(one(pieces).astype(np.float64)) for one in each]
        with np.errstate(divide="ignore"):  # what may never follow has no probability
            return np.log(np.mean(probabilities, axis=0)).astype(np.float32)

    return next_piece


def same(found: list[Hypothesis], expected: list[Hypothesis]) -> None:
    assert [item.pieces for item in found] == [item.pieces for item in expected]
    assert [item.score for item in found] == pytest.approx([item.score for item in expected], abs=1e-5)


@pytest.mark.parametrize("seed", range(10))
def test_it_equals_the_oracle_on_the_mean_of_the_members(seed: int) -> None:
    (source,) = random_sources(seed, 1)
    options = random_options(seed)
    limit = LIMIT.limit(len(source)) if options.max_length is None else options.max_length
    expected = beam_search(mean_of(MEMBERS, source), options, max(limit, len(options.prefix)), EOS)
    same(alone(ENSEMBLE, source, options), expected)


def test_one_member_decides_otherwise_than_three() -> None:
    """Or the tests of the mean could not tell it from the first member."""
    sources, options = random_sources(4, 8), SearchOptions(3)
    together = translate(ENSEMBLE, sources, options, LIMIT)
    for member in MEMBERS:
        assert translate(member, sources, options, LIMIT) != together


def test_an_ensemble_of_one_is_the_model_itself() -> None:
    sources, options = random_sources(5, 6), SearchOptions(3, n_best=3)
    assert translate(Ensemble(MEMBERS[1:2]), sources, options, LIMIT) == translate(MEMBERS[1], sources, options, LIMIT)


def test_a_model_with_itself_is_the_model_itself() -> None:
    for source in random_sources(6, 6):
        options = SearchOptions(3, n_best=3)
        same(alone(Ensemble([MEMBERS[2]] * 3), source, options), alone(MEMBERS[2], source, options))


def test_the_order_of_the_members_does_not_matter() -> None:
    for source in random_sources(7, 6):
        options = SearchOptions(3, n_best=3)
        same(alone(Ensemble(MEMBERS[::-1]), source, options), alone(ENSEMBLE, source, options))


def test_results_do_not_depend_on_batch_mates_nor_on_when_they_joined() -> None:
    sources = random_sources(8, 9)
    options = [random_options(seed) for seed in range(9)]
    search, tickets, results = BeamSearch(ENSEMBLE, LIMIT), [], {}
    for first in range(0, 9, 3):
        tickets += search.admit(sources[first : first + 3], options[first : first + 3])
        results.update({item.ticket: item.hypotheses for item in search.step()})
    results |= run(search)
    for ticket, source, option in zip(tickets, sources, options, strict=True):
        same(results[ticket], alone(ENSEMBLE, source, option))


def test_what_every_member_finds_all_but_impossible_keeps_its_likelihood() -> None:
    """A mean of probabilities rather than of their logarithms would underflow to nothing."""
    members = [tiny_model(seed, dtype=torch.float32) for seed in (1, 2)]
    for member, bias in zip(members, (-1000.0, -1010.0), strict=True):
        member.output_bias[5] = bias
    ensemble = Ensemble(members)
    memory = ensemble.encode(torch.tensor([[6, EOS]]), torch.tensor([2]))
    logits, _ = ensemble.step(ensemble.start(memory), torch.tensor([2]), memory)
    assert -1030 < float(logits[0, 5]) < -970
    assert float(logits.exp().sum()) == pytest.approx(1.0, abs=1e-5)


def test_what_is_impossible_to_every_member_stays_so() -> None:
    members = [tiny_model(seed, dtype=torch.float32) for seed in (1, 2)]
    for member in members:
        member.output_bias[5] = -math.inf
    ensemble = Ensemble(members)
    memory = ensemble.encode(torch.tensor([[6, EOS]]), torch.tensor([2]))
    logits, _ = ensemble.step(ensemble.start(memory), torch.tensor([2]), memory)
    assert float(logits[0, 5]) == -math.inf
    assert float(logits.exp().sum()) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_members_may_be_prepared_for_inference(precision: Precision) -> None:
    """A prepared model with itself is that model itself, whose precision it keeps."""
    member = prepare(tiny_model(4, dtype=torch.float32), precision).model
    for source in random_sources(8, 6):
        options = SearchOptions(3, n_best=3)
        same(alone(Ensemble([member] * 2), source, options), alone(member, source, options))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([], "at least one"),
        ([MEMBERS[0], tiny_model(vocabulary=VOCABULARY + 1)], r"model 2 .* pieces\) = \(13, 13\)"),
        ([MEMBERS[0], MEMBERS[1], tiny_model(bos=1, unk=2)], r"model 3 .*bos, eos\) = \(0, 2, 1, 3\)"),
        ([MEMBERS[0], tiny_model().to("meta")], "device = meta, the first has cpu"),
    ],
)
def test_models_that_cannot_decode_together_are_refused(members: list[Seq2Seq], message: str) -> None:
    with pytest.raises(EnsembleError, match=message):
        Ensemble(members)


def test_an_output_of_some_rows_gives_the_logits_of_those_pieces() -> None:
    member, pieces = MEMBERS[1], torch.tensor([2, 5, 11])
    ensemble = Ensemble([member])
    memory = ensemble.encode(torch.tensor([[6, EOS]]), torch.tensor([2]))
    state, token = ensemble.start(memory), torch.tensor([2])
    whole, _ = ensemble.step(state, token, memory)
    some, _ = ensemble.step(state, token, memory, ensemble.rows(pieces))
    torch.testing.assert_close(some, whole[:, pieces])
