"""A shortlist decides what a sentence may be translated with, whatever stands beside it in a batch."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import (
    LIMIT,
    VOCABULARY,
    admitted_over_time,
    alone,
    close,
    random_options,
    random_sources,
    tiny_model,
)

from model.ensemble import Ensemble
from model.search import BeamSearch, SearchOptions, translate
from model.seq2seq import Seq2Seq
from model.shortlist import Shortlist, ShortlistError

MODEL = tiny_model(7)
RESERVED = (0, 1, 2, 3)
BEAM = SearchOptions(beam_size=3, n_best=3)


def shortlist(rows: Sequence[Sequence[int]], always: Sequence[int] = RESERVED) -> Shortlist:
    """Of these target pieces for each source piece."""
    lengths = torch.tensor([len(row) for row in rows])
    offsets = torch.cat([torch.zeros(1), lengths.cumsum(0)]).int()
    ids = torch.tensor([id_ for row in rows for id_ in row], dtype=torch.int32)
    return Shortlist(offsets, ids, torch.tensor(always, dtype=torch.int32))


def random_shortlist(seed: int) -> Shortlist:
    """Of no, one or two target pieces for each source piece."""
    choose = random.Random(seed)
    return shortlist([choose.sample(range(4, VOCABULARY), choose.randrange(3)) for _ in range(VOCABULARY)])


EVERYTHING = shortlist([range(VOCABULARY)] * VOCABULARY)
SOME = random_shortlist(1)


def own_pieces(rows: Shortlist, source: Sequence[int], options: SearchOptions) -> set[int]:
    """What a sentence may be translated with."""
    of = [rows.ids[rows.offsets[piece] : rows.offsets[piece + 1]].tolist() for piece in source]
    return {*rows.always.tolist(), *options.prefix}.union(*of)


def without(model: Seq2Seq, pieces: set[int]) -> Seq2Seq:
    """The model with a bias that rules out all but ``pieces``."""
    other = Seq2Seq(model.config).to(model.output_bias.dtype).eval().requires_grad_(False)
    other.load_state_dict(model.state_dict())
    other.output_bias[[piece for piece in range(VOCABULARY) if piece not in pieces]] = -math.inf
    return other


@pytest.mark.parametrize("seed", range(12))
def test_a_shortlist_of_everything_changes_nothing(seed: int) -> None:
    (source,), options = random_sources(seed, 1), random_options(seed)
    close(alone(MODEL, source, options, EVERYTHING), alone(MODEL, source, options, None))


@pytest.mark.parametrize("seed", range(12))
def test_a_sentence_is_translated_as_by_a_model_that_knows_its_pieces_only(seed: int) -> None:
    rows, (source,), options = random_shortlist(seed), random_sources(seed, 1), random_options(seed)
    limited = without(MODEL, own_pieces(rows, source, options))
    close(alone(MODEL, source, options, rows), alone(limited, source, options, None))


def test_translations_differ_from_those_without_a_shortlist() -> None:
    """Or the tests of this file would show nothing."""
    sources = random_sources(2, 20)
    free, limited = (translate(MODEL, sources, BEAM, LIMIT, shortlist=rows) for rows in (None, SOME))
    found = [[[item.pieces for item in best] for best in results] for results in (free, limited)]
    assert sum(one != other for one, other in zip(*found, strict=True)) > 10


@given(seed=st.integers(0, 10**6), count=st.integers(2, 7))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_results_equal_those_alone(seed: int, count: int) -> None:
    admitted_over_time(MODEL, seed, count, random_shortlist(seed))


@pytest.mark.parametrize("seed", range(3))
def test_results_of_an_ensemble_equal_those_alone(seed: int) -> None:
    """Each member's probabilities are of the sentence's own pieces, not of the batch's."""
    admitted_over_time(Ensemble([MODEL, tiny_model(8, hidden=12)]), seed, 5, random_shortlist(seed))


def test_an_ensemble_of_one_model_twice_is_that_model() -> None:
    twice = Ensemble([MODEL, MODEL])
    for source in random_sources(4, 5):
        close(alone(twice, source, BEAM, SOME), alone(MODEL, source, BEAM, SOME))


def test_a_forced_prefix_may_lie_outside_the_shortlist() -> None:
    nothing = shortlist([[]] * VOCABULARY)
    options = SearchOptions(beam_size=2, n_best=2, prefix=(9, 4, 9), max_length=5)
    found = alone(MODEL, [5, 6], options, nothing)
    assert {hypothesis.pieces[:3] for hypothesis in found} == {(9, 4, 9)}
    close(found, alone(without(MODEL, {*RESERVED, 4, 9}), [5, 6], options, None))


def tireless_model() -> Seq2Seq:
    """A model that ends no sentence before the limit."""
    model = tiny_model(7)
    model.output_bias[model.config.eos] = -100
    return model


class Gathered:
    """Notes for how many pieces a model's output was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pieces: list[int] = []
        rows = Ensemble.rows

        def noting(model: Ensemble, pieces: torch.Tensor) -> object:
            self.pieces.append(len(pieces))
            return rows(model, pieces)

        monkeypatch.setattr(Ensemble, "rows", noting)


def test_output_rows_are_gathered_when_sentences_join_and_not_at_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    gathered = Gathered(monkeypatch)
    search = BeamSearch(tireless_model(), LIMIT, shortlist([[]] * 8 + [[piece] for piece in range(8, VOCABULARY)]))
    options = SearchOptions(max_length=30)
    for source in ([5, 8], [9], [9, 8], [10, 11]):
        search.admit([source], [options])
        for _ in range(3):
            assert search.step() == []
    assert gathered.pieces == [5, 6, 8]  # the third brings no new piece


def test_pieces_that_only_sentences_now_gone_might_use_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    gathered = Gathered(monkeypatch)
    search = BeamSearch(tireless_model(), LIMIT, shortlist([[]] * 8 + [[piece] for piece in range(8, VOCABULARY)]))
    options = SearchOptions(max_length=30)
    _, wide = search.admit([[8], [9, 10, 11]], [options, options])
    search.step()
    search.cancel([wide])
    search.step()
    assert gathered.pieces == [8, 5]


BROKEN = {
    "another vocabulary": (shortlist([[]] * 5), "offsets has 6 entries; for 12 source pieces"),
    "offsets that fall": (EVERYTHING._replace(offsets=EVERYTHING.offsets.flip(0)), "offsets must rise"),
    "ids too few": (EVERYTHING._replace(ids=EVERYTHING.ids[:-1]), "offsets must rise from 0 to the number of ids, 143"),
    "an id too large": (shortlist([[12]] * VOCABULARY), "ids holds a piece outside the target vocabulary of 12"),
    "a negative id": (shortlist([[5]] * VOCABULARY, always=(*RESERVED, -1)), "always holds a piece outside"),
    "no end-of-sentence": (shortlist([[5]] * VOCABULARY, always=(0, 1, 2)), r"always lacks the reserved ids \[3\]"),
    "another type": (EVERYTHING._replace(ids=EVERYTHING.ids.long()), "ids is torch.int64"),
    "another shape": (EVERYTHING._replace(always=EVERYTHING.always.view(1, 4)), r"always is torch.int32 .*\[1, 4\]"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_shortlist_that_does_not_fit_the_model_is_refused(case: str) -> None:
    rows, message = BROKEN[case]
    with pytest.raises(ShortlistError, match=message):
        BeamSearch(MODEL, LIMIT, rows)
