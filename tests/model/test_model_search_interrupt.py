"""A sentence that is interrupted leaves at once with the best that it has, and says that it is not complete."""

from __future__ import annotations

import math

import pytest
from oracle import next_piece_of
from tiny_models import LIMIT, VOCABULARY, alone, random_sources, run, tiny_model

from model.config import LengthPenalty
from model.search import BeamSearch, Finished, SearchOptions

EOS = 3
SOURCE = [5, 6, 7]
PENALTY = LengthPenalty(kind="gnmt", alpha=0.7)
BEAM = SearchOptions(beam_size=3, n_best=2, length_penalty=PENALTY)


def endless(seed: int = 3) -> BeamSearch:
    """A search of which nothing ever finishes before the limit."""
    model = tiny_model(seed)
    model.output_bias[EOS] = -1e4
    return BeamSearch(model, LIMIT)


def interrupted_after(steps: int, options: SearchOptions = BEAM) -> Finished:
    search = endless()
    (ticket,) = search.admit([SOURCE], [options])
    for _ in range(steps):
        assert search.step() == []
    (found,) = search.interrupt([ticket])
    return found


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_sentence_with_nothing_finished_leaves_with_its_live_hypotheses(steps: int) -> None:
    """Their figures are those of the pieces so far, without end-of-sentence, by a teacher-forced pass."""
    found = interrupted_after(steps)
    next_piece = next_piece_of(endless().model.members[0], SOURCE)
    assert [len(item.pieces) for item in found.hypotheses] == [steps] * 2
    for item in found.hypotheses:
        total = sum(float(next_piece(item.pieces[:at])[item.pieces[at]]) for at in range(steps))
        assert item.log_probability == pytest.approx(total, abs=1e-5)
        assert item.score == pytest.approx(total / ((5 + steps) / 6) ** 0.7, abs=1e-5)


def test_live_hypotheses_are_the_best_of_all() -> None:
    """After one step that can be counted: the likeliest first pieces."""
    found = interrupted_after(1)
    first = next_piece_of(endless().model.members[0], SOURCE)(())
    ranked = sorted((piece for piece in range(VOCABULARY) if piece != EOS), key=lambda piece: -first[piece])
    assert [item.pieces for item in found.hypotheses] == [(ranked[0],), (ranked[1],)]


def test_it_says_that_it_is_not_complete_and_others_say_that_they_are() -> None:
    search = BeamSearch(tiny_model(3), LIMIT)
    stays, leaves = search.admit([SOURCE, [5, 6]], [BEAM, BEAM])
    (interrupted,) = search.interrupt([leaves])
    assert (interrupted.ticket, interrupted.complete) == (leaves, False)
    while search.active:
        assert all(finished == (stays, finished.hypotheses, True) for finished in search.step())


def test_finished_hypotheses_come_before_live_ones() -> None:
    """The empty translation is likely but a full beam of three is not there yet."""
    model = tiny_model(3)
    model.output_bias[EOS] = 3.0
    search = BeamSearch(model, LIMIT)
    options = SearchOptions(beam_size=8, n_best=8)
    (ticket,) = search.admit([[5] * 7], [options])
    assert search.step() == []
    (found,) = search.interrupt([ticket])
    assert [item.pieces for item in found.hypotheses] == [()]
    log_probability = float(next_piece_of(model, [5] * 7)(())[EOS])
    assert found.hypotheses[0].score == pytest.approx(log_probability, abs=1e-5)


def test_before_the_first_step_there_is_only_the_empty_hypothesis() -> None:
    (hypothesis,) = interrupted_after(0).hypotheses
    assert hypothesis == ((), 0.0, 0.0)


def test_rows_are_free_at_once_and_the_others_go_on_as_if_alone() -> None:
    model, sources = tiny_model(7), random_sources(8, 5)
    search = BeamSearch(model, LIMIT)
    tickets = search.admit(sources, [BEAM] * 5)
    left = {ticket for finished in (search.step(), search.step()) for ticket, *_ in finished}
    gone = [ticket for ticket in tickets[1:3] if ticket not in left]
    assert [finished.ticket for finished in search.interrupt([*gone, 12345])] == gone
    assert (search.active, search.rows) == (5 - len(left) - len(gone), 3 * (5 - len(left) - len(gone)))
    for ticket, found in run(search).items():
        expected = alone(model, sources[tickets.index(ticket)], BEAM)
        assert [item.pieces for item in found] == [item.pieces for item in expected]


def test_unknown_tickets_and_an_empty_search_give_nothing() -> None:
    search = endless()
    assert search.interrupt([1, 2]) == []
    assert search.active == 0


def test_rows_that_never_lived_are_no_hypotheses() -> None:
    """A prefix leaves one row of the beam alive."""
    found = interrupted_after(2, SearchOptions(beam_size=3, n_best=3, prefix=(9, 4)))
    assert [item.pieces for item in found.hypotheses] == [(9, 4)]
    assert found.hypotheses[0].log_probability > -math.inf
