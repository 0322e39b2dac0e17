"""What the search promises besides its laws: greedy, exact stopping, limits, order, clear refusals."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from oracle import next_piece_of
from tiny_models import LIMIT, VOCABULARY, alone, random_options, random_sources, run, tiny_model

from model.config import LengthLimit, LengthPenalty
from model.search import BeamSearch, Finished, Hypothesis, SearchOptions, translate
from model.search.beams import Beams

MODEL = tiny_model(11)
EOS = 3


@pytest.mark.parametrize("seed", range(12))
def test_a_beam_of_one_is_greedy_search(seed: int) -> None:
    model = tiny_model(seed)
    (source,) = random_sources(seed, 1)
    next_piece = next_piece_of(model, source)
    pieces: list[int] = []
    while len(pieces) < 6 and (piece := int(next_piece(tuple(pieces)).argmax())) != EOS:
        pieces.append(piece)
    (found,) = alone(model, source, SearchOptions(beam_size=1, max_length=6))
    assert list(found.pieces) == pieces


def steps_and_results(limit: LengthLimit, seeds: Sequence[int]) -> tuple[int, list[list[Hypothesis]]]:
    steps, results = 0, []
    for seed in seeds:
        search = BeamSearch(tiny_model(seed), limit)
        search.admit(random_sources(seed, 1), [random_options(seed)._replace(max_length=None)])
        while search.active:
            steps += 1
            results += [finished.hypotheses for finished in search.step()]
    return steps, results


def test_early_stopping_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Going on until the beam is full or the limit reached takes more steps and finds the same."""
    limit = LengthLimit(ratio_mean=2.0, ratio_deviation=0.0, margin=6)
    steps, results = steps_and_results(limit, range(40))

    monkeypatch.setattr(Beams, "certain", lambda beams: np.zeros(len(beams), dtype=np.bool_))
    more_steps, same_results = steps_and_results(limit, range(40))
    assert same_results == results
    assert more_steps > steps


def test_a_long_hypothesis_may_overtake_one_that_finished_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """At first it is worse by any measure; each later piece is certain, so that its mean rises with its length."""
    model = tiny_model(1)
    certain = {4: 5, 5: 6, 6: 7, 7: 8, 8: EOS}
    table = torch.full((VOCABULARY, VOCABULARY), -30.0)
    table[model.config.bos, EOS], table[model.config.bos, 4] = math.log(0.6), math.log(0.3)
    for piece, following in certain.items():
        table[piece, following] = 0.0
    monkeypatch.setattr(model, "step", lambda state, token, memory: (table[token], state))
    (found,) = alone(model, [5, 6, 7, 8], SearchOptions(beam_size=2))
    assert found.pieces == (4, 5, 6, 7, 8)
    (unnormalised,) = alone(model, [5, 6, 7, 8], SearchOptions(2, length_penalty=LengthPenalty(kind="none")))
    assert unnormalised.pieces == ()


@pytest.mark.parametrize("limit", [0, 1, 4])
def test_no_hypothesis_is_longer_than_the_limit(limit: int) -> None:
    for source in random_sources(2, 8):
        found = alone(MODEL, source, SearchOptions(beam_size=4, n_best=4, max_length=limit))
        assert max(len(hypothesis.pieces) for hypothesis in found) <= limit


def test_the_limit_comes_from_the_source_unless_one_is_given() -> None:
    """A model that never ends by itself fills whatever it may."""
    model = tiny_model(1)
    model.output_bias[EOS] = -1e4
    options = SearchOptions(beam_size=2)
    for length in (1, 4, 8, 30):
        assert len(alone(model, [5] * length, options)[0].pieces) == LIMIT.limit(length)
    assert len(alone(model, [5] * 4, options._replace(max_length=17))[0].pieces) == 17


def test_n_best_are_given_best_first_and_all_differ() -> None:
    for source in random_sources(3, 8):
        found = alone(MODEL, source, SearchOptions(beam_size=5, n_best=5))
        assert len({hypothesis.pieces for hypothesis in found}) == 5
        assert [item.score for item in found] == sorted((item.score for item in found), reverse=True)


def test_fewer_hypotheses_than_asked_for_only_where_there_are_no_more() -> None:
    found = alone(MODEL, [5, 6], SearchOptions(beam_size=5, n_best=5, max_length=0))
    assert [hypothesis.pieces for hypothesis in found] == [()]


def test_every_hypothesis_begins_with_the_prefix() -> None:
    found = alone(MODEL, [5, 6, 7], SearchOptions(beam_size=4, n_best=4, prefix=(9, 1, 4)))
    assert {hypothesis.pieces[:3] for hypothesis in found} == {(9, 1, 4)}


def test_a_prefix_may_be_longer_than_the_limit() -> None:
    found = alone(MODEL, [5], SearchOptions(beam_size=2, prefix=(9,) * 20))
    assert found[0].pieces == (9,) * 20


def test_reserved_ids_are_never_produced() -> None:
    """Not even by a model that likes nothing better."""
    model = tiny_model(2)
    for reserved in (model.config.pad, model.config.bos):
        model.output_bias[reserved] = 50.0
    for source in random_sources(4, 6):
        for hypothesis in alone(model, source, SearchOptions(beam_size=3, n_best=3, max_length=5)):
            assert not {model.config.pad, model.config.bos, EOS} & {*hypothesis.pieces}


def test_the_score_is_the_log_probability_over_the_penalty() -> None:
    penalty = LengthPenalty(kind="gnmt", alpha=0.7)
    for hypothesis in alone(MODEL, [5, 6, 7], SearchOptions(beam_size=5, n_best=5, length_penalty=penalty)):
        divisor = ((5 + len(hypothesis.pieces) + 1) / 6) ** 0.7
        assert hypothesis.score == pytest.approx(hypothesis.log_probability / divisor)


def test_scores_that_are_no_numbers_end_without_a_hypothesis() -> None:
    model = tiny_model(1)
    model.output_bias[5] = math.nan
    assert alone(model, [5, 6], SearchOptions()) == []


REFUSED = {
    "an empty source": ([], SearchOptions(), "empty"),
    "an id beyond the vocabulary": ([5, VOCABULARY], SearchOptions(), f"source holds the id {VOCABULARY}"),
    "a negative id": ([-1], SearchOptions(), "source holds the id -1"),
    "a prefix beyond the vocabulary": ([5], SearchOptions(prefix=(99,)), "prefix holds the id 99"),
    "a reserved id in the prefix": ([5], SearchOptions(prefix=(4, EOS)), "reserved"),
    "no beam": ([5], SearchOptions(beam_size=0), "n_best"),
    "n_best beyond the beam": ([5], SearchOptions(beam_size=2, n_best=3), "n_best is 3"),
    "no n_best": ([5], SearchOptions(n_best=0), "n_best is 0"),
    "a negative limit": ([5], SearchOptions(max_length=-1), "max_length is -1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_and_nothing_admitted(case: str) -> None:
    source, options, message = REFUSED[case]
    search = BeamSearch(MODEL, LIMIT)
    (ticket,) = search.admit([[5, 6]], [SearchOptions()])
    with pytest.raises(ValueError, match=message):
        search.admit([[5, 6], source], [SearchOptions(), options])
    assert search.active == 1
    assert run(search) == {ticket: alone(MODEL, [5, 6], SearchOptions())}


def test_each_source_needs_its_options() -> None:
    with pytest.raises(ValueError, match="2 sources came with 1 options"):
        BeamSearch(MODEL, LIMIT).admit([[5], [6]], [SearchOptions()])


def test_tickets_are_never_given_twice() -> None:
    search = BeamSearch(MODEL, LIMIT)
    tickets = [search.admit([[5]], [SearchOptions()])[0] for _ in range(3)]
    run(search)
    tickets += search.admit([[5]], [SearchOptions()])
    assert len(set(tickets)) == 4


@pytest.mark.parametrize("lanes", [1, 3, 50])
@pytest.mark.parametrize("token_budget", [1, 40, 8192])
def test_offline_translation_keeps_the_order(token_budget: int, lanes: int) -> None:
    sources = random_sources(6, 20)
    options = SearchOptions(beam_size=3, n_best=2)
    found = translate(MODEL, sources, options, LIMIT, token_budget, lanes=lanes)
    assert [[item.pieces for item in hypotheses] for hypotheses in found] == [
        [item.pieces for item in alone(MODEL, source, options)] for source in sources
    ]


def test_offline_translation_stays_within_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    held, step = [], BeamSearch.step

    def observed(search: BeamSearch, most: int) -> list[Finished]:
        held.append(search.padded_tokens * 3)
        return step(search, most)

    monkeypatch.setattr(BeamSearch, "step", observed)
    translate(MODEL, random_sources(7, 40), SearchOptions(beam_size=3), LIMIT, token_budget=100)
    assert max(held) <= 100


def test_offline_translation_refuses_bad_input_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BeamSearch, "step", None)
    with pytest.raises(ValueError, match="empty"):
        translate(MODEL, [[5, 6], []], SearchOptions(), LIMIT)
    assert translate(MODEL, [], SearchOptions(), LIMIT) == []


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_offline_lanes_share_the_threads_and_give_them_back(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, int] = {}
    step, together = BeamSearch.step, threading.Barrier(3)

    def observed(search: BeamSearch, most: int) -> list[Finished]:
        if (name := threading.current_thread().name) not in seen:
            seen[name] = torch.get_num_threads()
            together.wait(60)  # or a lane that is done would lend its thread to the next
        return step(search, most)

    monkeypatch.setattr(BeamSearch, "step", observed)
    translate(MODEL, random_sources(6, 20), SearchOptions(beam_size=2), LIMIT)
    assert list(seen.values()) == [1, 1, 1] and "MainThread" not in seen
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == torch.get_num_threads() == 3


def test_an_error_in_one_offline_lane_ends_all_and_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    step, steps = BeamSearch.step, []
    failed = threading.Event()

    def failing(search: BeamSearch, most: int) -> list[Finished]:
        if threading.current_thread().name.endswith("_1"):
            failed.set()
            raise RuntimeError("poison")
        assert failed.wait(60)
        steps.append(1)
        return step(search, most)

    monkeypatch.setattr(BeamSearch, "step", failing)
    with pytest.raises(RuntimeError, match="poison"):
        translate(MODEL, random_sources(6, 200), SearchOptions(beam_size=1), LIMIT, token_budget=40, lanes=2)
    assert len(steps) < 20
