"""Law 1: a sentence's translation does not depend on its batch mates, their order, or when it was admitted."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import (
    LIMIT,
    admitted_over_time,
    alone,
    close,
    random_sources,
    run,
    tiny_model,
    uniform_model,
)
from torch import Tensor

from model.cells import CELLS
from model.decoder import Memory, State
from model.search import BeamSearch, Hypothesis, SearchOptions
from model.seq2seq import Seq2Seq

MODEL = tiny_model(7)
BEAM = SearchOptions(beam_size=3, n_best=3)


@given(seed=st.integers(0, 10**6), count=st.integers(2, 7))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_results_equal_those_alone(seed: int, count: int) -> None:
    admitted_over_time(MODEL, seed, count)


@pytest.mark.parametrize("seed", range(5))
def test_results_equal_those_alone_where_everything_ties(seed: int) -> None:
    admitted_over_time(uniform_model(), seed, 5)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("input_feeding", [False, True])
def test_results_equal_those_alone_with_every_cell(cell: str, input_feeding: bool) -> None:
    admitted_over_time(
        tiny_model(5, cell=cell, input_feeding=input_feeding, self_attention=True, lexical_shortcut=True), 11, 4
    )


def test_a_narrow_beam_stays_narrow_beside_a_wide_one() -> None:
    """The wide one's rows are there for the narrow one too, and must stay dead; it shows in few models."""
    narrow = SearchOptions(beam_size=2, n_best=2)
    for seed in range(40):
        model, (source,) = tiny_model(seed), random_sources(seed, 1)
        search = BeamSearch(model, LIMIT)
        ticket, _ = search.admit([source, [5, 6]], [narrow, SearchOptions(beam_size=6)])
        close(run(search)[ticket], alone(model, source, narrow))


@pytest.mark.parametrize("input_feeding", [False, True])
def test_results_equal_those_alone_in_float32(input_feeding: bool) -> None:
    model = tiny_model(3, dtype=torch.float32, input_feeding=input_feeding)
    sources = random_sources(3, 12)
    search = BeamSearch(model, LIMIT)
    tickets = search.admit(sources, [BEAM] * 12)
    results = run(search)
    for ticket, source in zip(tickets, sources, strict=True):
        close(results[ticket], alone(model, source, BEAM), tolerance=1e-4)


def rows_of_each_pass(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    passes: list[int] = []
    step = Seq2Seq.step

    def counted(model: Seq2Seq, state: State, token: Tensor, memory: Memory) -> tuple[Tensor, State]:
        passes.append(len(token))
        return step(model, state, token, memory)

    monkeypatch.setattr(Seq2Seq, "step", counted)
    return passes


def test_many_that_join_take_their_first_step_with_one_row_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a pass of their own; a few would not be worth it. What comes out is what it would be anyway."""
    sources = random_sources(12, 33)
    passes = rows_of_each_pass(monkeypatch)
    search = BeamSearch(MODEL, LIMIT)
    tickets = search.admit(sources[:2], [BEAM] * 2)
    search.step()
    tickets += search.admit(sources[2:3], [BEAM])
    search.step()
    assert passes == [2, 9]
    tickets += search.admit(sources[3:], [BEAM] * 30)
    found = {item.ticket: item.hypotheses for item in search.step()}
    assert passes[2:] == [9, 30]
    found |= run(search)
    for ticket, source in zip(tickets, sources, strict=True):
        close(found[ticket], alone(MODEL, source, BEAM))


def test_greedy_search_copies_no_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a step leaves is what the next one takes, as long as nobody leaves."""
    seen: list[State] = []
    step = Seq2Seq.step

    def watched(model: Seq2Seq, state: State, token: Tensor, memory: Memory) -> tuple[Tensor, State]:
        seen.append(state)
        logits, after = step(model, state, token, memory)
        seen.append(after)
        return logits, after

    monkeypatch.setattr(Seq2Seq, "step", watched)
    model = tiny_model(1)
    model.output_bias[model.config.eos] = -1e4
    search = BeamSearch(model, LIMIT)
    search.admit([[5, 6], [7, 8]], [SearchOptions(beam_size=1)] * 2)
    search.step()
    search.step()
    assert seen[2].cells[0].hidden is seen[1].cells[0].hidden


def test_two_searches_share_a_model() -> None:
    """Stepped in turns, as two engines would."""
    searches = [BeamSearch(MODEL, LIMIT), BeamSearch(MODEL, LIMIT)]
    sources = random_sources(5, 6)
    halves = (sources[:3], sources[3:])
    tickets = [search.admit(half, [BEAM] * 3) for search, half in zip(searches, halves, strict=True)]
    results: list[dict[int, list[Hypothesis]]] = [{}, {}]
    while any(search.active for search in searches):
        for search, found in zip(searches, results, strict=True):
            found.update({item.ticket: item.hypotheses for item in search.step()})
    for numbers, found, half in zip(tickets, results, halves, strict=True):
        for ticket, source in zip(numbers, half, strict=True):
            close(found[ticket], alone(MODEL, source, BEAM))


def test_cancelling_frees_rows_at_once_and_leaves_the_others_alone() -> None:
    search = BeamSearch(MODEL, LIMIT)
    stays, leaves = [5, 6, 7], [8] * 30
    options = [BEAM, SearchOptions(beam_size=8)]
    kept, gone = search.admit([stays, leaves], options)
    assert (search.active, search.rows, search.padded_tokens) == (2, 16, 62)
    search.step()
    search.cancel([gone, 12345])
    assert (search.active, search.rows, search.padded_tokens) == (1, 3, 4)
    results = run(search)
    assert results.keys() == {kept}
    close(results[kept], alone(MODEL, stays, BEAM))


def test_cancelling_the_last_sentence_empties_the_search() -> None:
    search = BeamSearch(MODEL, LIMIT)
    search.cancel(search.admit([[5, 6]], [BEAM]))
    assert (search.active, search.rows, search.padded_tokens) == (0, 0, 0)
    assert search.step() == []


def test_a_search_holds_no_more_than_its_sentences_need() -> None:
    """Over a hundred sentences, ten at a time, rows and positions stay those of the ten."""
    search = BeamSearch(MODEL, LIMIT)
    sources = random_sources(9, 100)
    while sources or search.active:
        arrivals = [sources.pop() for _ in range(min(len(sources), 10 - search.active))]
        search.admit(arrivals, [BEAM] * len(arrivals))
        search.step()
        assert search.rows == search.active * (BEAM.beam_size if search.active else 0)
        assert search.padded_tokens == search.active * search.longest_source <= 10 * 8
    assert search.rows == 0


def test_a_step_that_fails_leaves_the_search_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    search = BeamSearch(MODEL, LIMIT)
    (ticket,) = search.admit([[5, 6, 7]], [BEAM])
    search.step()
    with monkeypatch.context() as patch:
        patch.setattr(Seq2Seq, "step", lambda *_: (_ for _ in ()).throw(MemoryError()))
        with pytest.raises(MemoryError):
            search.step()
    close(run(search)[ticket], alone(MODEL, [5, 6, 7], BEAM))
