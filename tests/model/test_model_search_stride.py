"""Several steps in one call of the model: the search gives, bit by bit, what single steps give."""

from __future__ import annotations

import random

import pytest
import torch
from tiny_models import LIMIT, random_options, random_sources, tiny_model

from model.config import LengthLimit, LengthPenalty
from model.ensemble import Ensemble
from model.native import Operators
from model.precision import prepare
from model.search import BeamSearch, Hypothesis, SearchOptions
from model.seq2seq import Seq2Seq
from model.shortlist import Shortlist
from model.whole_step import WholeStep

LONG = LengthLimit(ratio_mean=1.5, ratio_deviation=0.0, margin=6, cap=30)

Results = dict[int, list[Hypothesis]]


@pytest.fixture
def strides(operators: Operators, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many steps each call took."""
    taken: list[int] = []
    stride = WholeStep.stride

    def counted(*arguments: object) -> object:
        found = stride(*arguments)  # type: ignore[arg-type]
        taken.append(len(found[0]))
        return found

    monkeypatch.setattr(WholeStep, "stride", counted)
    return taken


def packed(seed: int, **choices: object) -> Seq2Seq:
    return prepare(tiny_model(seed, dtype=torch.float32, embedding=16, hidden=16, **choices), "int8").model


def translated(search: BeamSearch, sources: list[list[int]], options: list[SearchOptions], most: int) -> Results:
    """All of them, half of which join after two calls."""
    half = (len(sources) + 1) // 2
    results: Results = {}
    waiting = [(sources[half:], options[half:])]
    search.admit(sources[:half], options[:half])
    for call in range(200):
        if call == 2 and waiting:
            search.admit(*waiting.pop())
        results.update({finished.ticket: finished.hypotheses for finished in search.step(most)})
        if not search.active and not waiting:
            return results
    raise AssertionError("the search does not end")


@pytest.mark.parametrize("count", [1, 2, 3, 9])
@pytest.mark.parametrize("beam_size", [1, 3, 5])
@pytest.mark.parametrize("most", [2, 3, 8])
def test_strides_give_what_single_steps_give(strides: list[int], count: int, beam_size: int, most: int) -> None:
    for seed in range(6):
        model, choose = packed(seed), random.Random(seed)
        sources = random_sources(seed, count, longest=12)
        options = [
            SearchOptions(
                beam_size=beam_size,
                n_best=choose.randint(1, beam_size),
                length_penalty=LengthPenalty(alpha=choose.choice([0.5, 1.0, 2.0])),
                max_length=choose.choice([None, 5, 20]),
            )
            for _ in sources
        ]
        expected = translated(BeamSearch(model, LONG), sources, options, 1)
        assert not strides
        assert translated(BeamSearch(model, LONG), sources, options, most) == expected
        assert len(expected) == count
        assert all(1 <= steps <= most for steps in strides)
        if seed == 5:
            assert max(strides) > 1
        strides.clear()


@pytest.mark.parametrize("seed", range(3))
def test_many_stride_beside_those_that_join_and_beyond_the_limits_of_a_few(strides: list[int], seed: int) -> None:
    """New sentences take their first step by themselves, and nobody waits for it; limits are of all lengths."""
    model, choose = packed(seed), random.Random(seed)
    sources = random_sources(seed, 80, longest=12)
    limits = [choose.randint(1, 8) if number % 20 == 0 else choose.randint(12, 20) for number in range(80)]
    options = [SearchOptions(beam_size=3, n_best=3, max_length=limit) for limit in limits]
    expected = translated(BeamSearch(model, LONG), sources, options, 1)
    assert translated(BeamSearch(model, LONG), sources, options, 8) == expected
    assert len(expected) == 80
    assert strides[:4] == [3, 3, 3, 3]  # the third call was of two batches: those under way, and those that joined


@pytest.mark.parametrize("count", [1, 5])
def test_scores_that_are_no_numbers_end_as_in_single_steps(strides: list[int], count: int) -> None:
    """Nothing is found of the sentences, and the search goes on without them."""
    trained = tiny_model(2, dtype=torch.float32, embedding=16, hidden=16)
    trained.output_bias[5:] = torch.nan
    model, options = prepare(trained, "int8").model, [SearchOptions(beam_size=3)] * count
    sources = random_sources(2, count)
    expected = translated(BeamSearch(model, LONG), sources, options, 1)
    assert translated(BeamSearch(model, LONG), sources, options, 8) == expected
    assert all(hypotheses == [] for hypotheses in expected.values())


@pytest.mark.parametrize("seed", range(20))
def test_options_of_every_kind_come_to_the_same(strides: list[int], seed: int) -> None:
    """Prefixes, beams of different widths, limits of nothing: where a step needs the host it is a single one."""
    model, sources = packed(seed), random_sources(seed, 6)
    options = [random_options(seed + number) for number in range(6)]
    expected = translated(BeamSearch(model, LIMIT), sources, options, 1)
    assert translated(BeamSearch(model, LIMIT), sources, options, 8) == expected


def test_a_sentence_alone_is_not_stepped_beyond_its_end(strides: list[int]) -> None:
    """It stops at each step in which an end is among the best."""
    model, (source,) = packed(3), random_sources(3, 1, longest=12)
    search = BeamSearch(model, LONG)
    search.admit([source], [SearchOptions(beam_size=3, length_penalty=LengthPenalty(kind="none"))])
    (found,) = (finished for _ in range(40) if search.active for finished in search.step(30))
    longest = max(len(hypothesis.pieces) for hypothesis in found.hypotheses)
    assert sum(strides) <= longest + 3  # the k-th end may come a little later than the longest that is given


@pytest.mark.parametrize("beam_size", [1, 4])
def test_the_first_step_and_the_one_at_the_limit_are_part_of_strides(strides: list[int], beam_size: int) -> None:
    trained = tiny_model(1, dtype=torch.float32, embedding=16, hidden=16)
    trained.output_bias[trained.config.eos] = -1e9
    search = BeamSearch(prepare(trained, "int8").model, LONG)
    search.admit(random_sources(1, 1), [SearchOptions(beam_size=beam_size, max_length=9)])
    (found,) = (finished for _ in range(9) if search.active for finished in search.step(5))
    assert len(found.hypotheses[0].pieces) == 9
    assert strides == [5, 5]  # nine pieces, and the end


def test_decided_sentences_leave_together_after_the_stride(strides: list[int]) -> None:
    model, sources = packed(1), random_sources(1, 9, longest=12)
    search = BeamSearch(model, LONG)
    search.admit(sources, [SearchOptions(beam_size=2)] * 9)
    while search.active:
        before = search.active
        finished = search.step(8)
        assert search.active == before - len(finished)
        assert len({item.ticket for item in finished}) == len(finished)


@pytest.fixture
def shortlist() -> Shortlist:
    """Each source piece allows itself and its neighbour, and all of them the reserved ids and piece 4."""
    ids = torch.arange(12, dtype=torch.int32)
    pairs = torch.stack([ids, (ids + 1) % 12], dim=1).flatten()
    return Shortlist(torch.arange(13, dtype=torch.int32) * 2, pairs, ids[:5])


@pytest.mark.parametrize("seed", range(10))
def test_strides_with_a_shortlist_give_what_single_steps_give(
    strides: list[int], shortlist: Shortlist, seed: int
) -> None:
    model, sources, options = packed(seed), random_sources(seed, 5), [SearchOptions(beam_size=2, n_best=2)] * 5
    expected = translated(BeamSearch(model, LONG, shortlist), sources, options, 1)
    assert not strides
    assert translated(BeamSearch(model, LONG, shortlist), sources, options, 8) == expected
    assert strides


def test_ensembles_are_stepped_one_by_one(strides: list[int]) -> None:
    sources, options = random_sources(4, 3), [SearchOptions(beam_size=2)] * 3
    assert translated(BeamSearch(Ensemble([packed(1), packed(2)]), LONG), sources, options, 8)
    assert not strides
