"""What several processes make of a wish that concerns them all; the processes themselves: tests/system."""

from __future__ import annotations

from app.messages import OthersReloaded, Reloaded, ReloadReport, Rounds, joined

LOADED = ReloadReport(["en-de"], [], ["de-en"], {})
UNCHANGED = ReloadReport([], [], ["en-de", "de-en"], {})


def test_a_model_that_any_process_loaded_is_loaded() -> None:
    assert joined([UNCHANGED, LOADED]) == ReloadReport(["en-de"], [], ["de-en"], {})
    assert joined([UNCHANGED]) == UNCHANGED


def test_a_failure_says_in_how_many_processes_unless_in_all() -> None:
    failed = ReloadReport([], [], ["de-en"], {"/models/en-de": "it has no config.json"})
    assert joined([failed, failed]).failed == {"/models/en-de": "it has no config.json"}
    assert joined([LOADED, failed, LOADED]).failed == {"/models/en-de": "in 1 of 3 processes: it has no config.json"}
    other = ReloadReport([], [], [], {"/models/en-de": "out of memory"})
    assert joined([failed, other]).failed == {
        "/models/en-de": "in 1 of 2 processes: it has no config.json; in 1 of 2 processes: out of memory"
    }


def test_a_round_is_finished_when_all_that_were_asked_have_answered_or_died() -> None:
    rounds = Rounds()
    number = rounds.begin(asker=1, ticket=7, others=[2, 3, 4])
    rounds.reported(2, Reloaded(number, LOADED))
    assert rounds.finished() == []
    rounds.lost(3)
    assert rounds.finished() == []
    rounds.reported(4, Reloaded(number, UNCHANGED))
    assert rounds.finished() == [(1, OthersReloaded(7, [LOADED, UNCHANGED]))]
    assert rounds.finished() == []


def test_a_round_with_nobody_else_is_finished_at_once() -> None:
    rounds = Rounds()
    rounds.begin(asker=1, ticket=0, others=[])
    assert rounds.finished() == [(1, OthersReloaded(0, []))]


def test_two_rounds_at_once_are_kept_apart() -> None:
    rounds = Rounds()
    first, second = rounds.begin(1, 0, [2]), rounds.begin(2, 0, [1])
    rounds.reported(1, Reloaded(second, UNCHANGED))
    assert rounds.finished() == [(2, OthersReloaded(0, [UNCHANGED]))]
    rounds.reported(2, Reloaded(first, LOADED))
    assert rounds.finished() == [(1, OthersReloaded(0, [LOADED]))]


def test_nobody_is_told_when_the_asker_has_died() -> None:
    rounds = Rounds()
    number = rounds.begin(asker=1, ticket=0, others=[2])
    rounds.lost(1)
    rounds.reported(2, Reloaded(number, LOADED))
    assert rounds.finished() == []
