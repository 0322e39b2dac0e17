"""The engine's parts by themselves: room and allowance, backlog, flights, cache, rate, watchdog."""

from __future__ import annotations

import asyncio
import math
import threading

import pytest
from engine_harness import PATIENCE_SECONDS, generation, job, request

from app.engine import SegmentResult
from app.engine.backlog import NOTHING, Backlog, Left
from app.engine.budget import LEAST_ENCODED, RELIEF_SECONDS, Allowance, Budget, Room, is_out_of_memory, size
from app.engine.cache import ENTRY_TOKENS, ResultCache
from app.engine.delivery import Deliveries
from app.engine.flights import Flights, Key
from app.engine.jobs import Priority
from app.engine.rate import WINDOW_SECONDS, Rate, Speed
from app.engine.request import Slot
from app.engine.watchdog import EXIT_STATUS, Watchdog, exit_process
from model.search import Hypothesis


def test_room_is_counted_with_padding() -> None:
    room = Room(Budget(tokens=40, rows=100), [job(9), job(4)])
    assert room.admits(job(9))
    assert room.admits(job(3))
    assert not room.admits(job(1))


def test_room_is_counted_in_rows_of_the_widest_beam() -> None:
    room = Room(Budget(tokens=1000, rows=24), [job(2, beam_size=8)])
    assert room.admits(job(2, beam_size=1))
    assert not room.admits(job(2, beam_size=9))
    assert room.admits(job(2, beam_size=8))
    assert not room.admits(job(2, beam_size=1))


def test_an_empty_batch_has_room_for_any_one_sentence() -> None:
    room = Room(Budget(tokens=4, rows=2), [])
    assert room.admits(job(50))
    assert not room.admits(job(1))


def test_arrivals_between_two_steps_are_bounded_by_what_is_encoded() -> None:
    room = Room(Budget(tokens=1_000_000, rows=200), [job(2)])
    admitted = 0
    while room.admits(job(9)):
        admitted += 1
    assert admitted == LEAST_ENCODED // 10
    assert Room(Budget(tokens=1_000_000, rows=100), [job(2)]).admits(job(2 * LEAST_ENCODED))


def test_what_is_encoded_between_two_steps_is_counted_with_padding() -> None:
    room = Room(Budget(tokens=1_000_000, rows=100), [])
    assert room.admits(job(LEAST_ENCODED // 2 - 1))
    assert room.admits(job(1))
    assert not room.admits(job(1))


def test_an_allowance_is_half_of_what_memory_did_not_hold() -> None:
    allowance = Allowance(Budget(4096, 640), clock=lambda: 0.0)
    allowance.halve(Budget(300, 100))
    assert allowance.budget == Budget(150, 50)
    allowance.halve(Budget(2, 1))
    assert allowance.budget == Budget(1, 1)


def test_an_allowance_grows_back_to_the_budget_and_no_further() -> None:
    now = 0.0
    allowance = Allowance(Budget(4096, 640), clock=lambda: now)
    allowance.halve(Budget(2000, 640))
    now = RELIEF_SECONDS * 0.9
    assert allowance.budget == Budget(1000, 320)
    now = RELIEF_SECONDS * 1.1
    assert allowance.budget == Budget(2000, 640)
    now = RELIEF_SECONDS * 10
    assert allowance.budget == Budget(4096, 640)


def test_size_is_what_jobs_need_together() -> None:
    assert size([job(9, beam_size=2), job(3, beam_size=5)]) == Budget(20, 10)
    assert size([]) == Budget(0, 0)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("size mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_running_out_of_memory_is_told_from_other_errors(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_a_request_waits_for_no_more_of_another_than_it_has_itself() -> None:
    backlog = Backlog()
    backlog.change(Priority.INTERACTIVE, NOTHING, Left(10_000))
    backlog.change(Priority.INTERACTIVE, NOTHING, Left(5))
    assert backlog.ahead(Priority.INTERACTIVE, 20) == 20 + 5
    assert backlog.ahead(Priority.INTERACTIVE, 50_000) == 10_000 + 5


def test_a_small_request_waits_for_a_whole_segment_of_each_other() -> None:
    backlog = Backlog()
    for tokens in (20, 24, 28):  # of one segment each
        backlog.change(Priority.INTERACTIVE, NOTHING, Left(tokens, turn=tokens))
    backlog.change(Priority.INTERACTIVE, NOTHING, Left(10_000, turn=25))
    assert backlog.ahead(Priority.INTERACTIVE, 5) == 20 + 24 + 28 + 25
    assert backlog.ahead(Priority.INTERACTIVE, 200) == 20 + 24 + 28 + 200
    backlog.change(Priority.INTERACTIVE, Left(10_000, turn=25), Left(9_000, turn=40))
    assert backlog.ahead(Priority.INTERACTIVE, 5) == 20 + 24 + 28 + 40


def test_interactive_requests_do_not_wait_for_bulk() -> None:
    backlog = Backlog()
    backlog.change(Priority.BULK, NOTHING, Left(100))
    backlog.change(Priority.INTERACTIVE, NOTHING, Left(30))
    assert backlog.ahead(Priority.INTERACTIVE, 1000) == 30
    assert backlog.ahead(Priority.BULK, 1000) == 130


def test_a_backlog_forgets_what_is_done() -> None:
    backlog = Backlog()
    backlog.change(Priority.BULK, NOTHING, Left(100))
    backlog.change(Priority.BULK, Left(100), Left(3))
    assert backlog.tokens == 3 and backlog.ahead(Priority.BULK, 1000) == 3
    backlog.change(Priority.BULK, Left(3), NOTHING)
    assert backlog.tokens == 0 and backlog.ahead(Priority.BULK, 1000) == 0


def test_only_the_first_of_equal_sentences_makes_a_flight() -> None:
    flights, model = Flights(), generation()
    first, second, other = (Slot(request(5, model=which), 0) for which in (model, model, generation()))
    flight = flights.board(first)
    assert flight is not None
    assert flights.board(second) is None
    assert flights.board(other) is not None
    assert flights.leave(flight) == [first, second]
    assert not flights.has(flight.key)


def test_a_flight_goes_on_for_those_who_stay() -> None:
    flights, model = Flights(), generation()
    leaves, stays = (Slot(request(5, model=model), 0) for _ in range(2))
    flight = flights.board(leaves)
    assert flight is not None
    flights.board(stays)
    assert flights.leave(flight, lambda slot: slot is leaves) == [leaves]
    leaves.request.gone = True
    assert not flights.abandon(flight) and flights.has(flight.key)
    stays.request.gone = True
    assert flights.abandon(flight) and not flights.has(flight.key)


def result(length: int) -> SegmentResult:
    return SegmentResult([Hypothesis((300,) * length, -1.0, -1.0)], [])


def test_a_full_cache_gives_up_what_was_not_used_for_longest() -> None:
    cache = ResultCache(3 * (ENTRY_TOKENS + 20))
    first, second, third, fourth = (Key(0, job(10, seed)) for seed in range(4))
    for key in (first, second, third):
        cache.put(key, result(10))
    assert cache.get(first) == result(10)
    cache.put(fourth, result(10))
    assert cache.get(second) is None
    assert all(cache.get(key) == result(10) for key in (first, third, fourth))
    assert cache.tokens == cache.capacity


def test_a_result_larger_than_the_cache_is_not_kept_and_drives_nothing_out() -> None:
    cache = ResultCache(ENTRY_TOKENS + 20)
    cache.put(Key(0, job(10)), result(10))
    cache.put(Key(0, job(10, seed=1)), result(11))
    assert cache.get(Key(0, job(10))) is not None
    assert cache.get(Key(0, job(10, seed=1))) is None


def test_a_cache_knows_models_options_and_annotations_apart() -> None:
    cache = ResultCache(10_000)
    cache.put(Key(0, job(10)), result(10))
    for other in (Key(1, job(10)), Key(0, job(10, beam_size=4)), Key(0, job(10, annotate=True))):
        assert cache.get(other) is None


def test_a_cache_forgets_a_model() -> None:
    cache = ResultCache(10_000)
    cache.put(Key(0, job(10)), result(10))
    cache.put(Key(1, job(10)), result(10))
    cache.forget(0)
    assert cache.get(Key(0, job(10))) is None and cache.get(Key(1, job(10))) is not None
    assert cache.tokens == ENTRY_TOKENS + 20


def test_an_event_loop_wakes_up_once_for_many_answers() -> None:
    async def deliver() -> None:
        loop, wakes = asyncio.get_running_loop(), 0
        wake = loop.call_soon_threadsafe

        def counted(*arguments: object) -> asyncio.Handle:
            nonlocal wakes
            wakes += 1
            return wake(*arguments)  # type: ignore[arg-type]

        loop.call_soon_threadsafe = counted  # type: ignore[assignment, method-assign]
        asked = [request(3, loop=loop) for _ in range(20)]
        deliveries = Deliveries()
        for number, item in enumerate(asked):
            deliveries.add(item, (number, result(3)))
        await asyncio.to_thread(deliveries.send)
        own = wakes
        assert [await item.inbox.next() for item in asked] == [(number, result(3)) for number in range(20)]
        assert own == 2  # one of them tells that the thread has ended

    asyncio.run(deliver())


def test_rate_is_tokens_for_each_second_of_work() -> None:
    rate = Rate()
    assert rate.per_second == 0
    rate.note(30, 0.1)
    rate.note(0, 0.1)
    assert rate.per_second == pytest.approx(150, rel=0.02)


def test_rate_forgets() -> None:
    rate = Rate()
    rate.note(1000, 1.0)
    for _ in range(100):
        rate.note(1, 0.1 * WINDOW_SECONDS)
    assert rate.per_second == pytest.approx(1 / (0.1 * WINDOW_SECONDS), rel=0.05)
    assert not math.isnan(rate.per_second)


def test_capacity_is_that_of_a_full_batch() -> None:
    speed = Speed(500.0)
    for _ in range(100):
        speed.note(10, 10, 1.0, full=False)
    assert speed.lately.per_second == pytest.approx(10, rel=0.05)
    assert speed.capacity == pytest.approx(500, rel=0.05)
    for _ in range(100):
        speed.note(80, 100, 1.0, full=True)
    assert speed.capacity == pytest.approx(80, rel=0.05)


def test_capacity_does_not_depend_on_when_a_full_batch_finishes_its_sentences() -> None:
    speed = Speed(100.0)
    for _ in range(500):  # a batch of ten fills, is full for ten steps, and is done when it is full no more
        for _ in range(10):
            speed.note(0, 10, 0.1, full=True)
        speed.note(80, 10, 0.1, full=False)
    assert speed.capacity == pytest.approx(80 / 1.1, rel=0.1)


def test_the_watchdog_acts_once_when_the_heart_does_not_beat() -> None:
    acted, calls = threading.Event(), []
    watchdog = Watchdog(lambda: 1.0, 0.02, lambda: (calls.append(None), acted.set())[0])
    watchdog.start()
    assert acted.wait(PATIENCE_SECONDS)
    watchdog._thread.join(PATIENCE_SECONDS)
    assert len(calls) == 1


def test_the_watchdog_lets_a_beating_heart_alone() -> None:
    looks = 0
    enough = threading.Event()

    def beats() -> float:
        nonlocal looks
        looks += 1
        if looks > 50:
            enough.set()
        return float(looks)

    calls: list[None] = []
    watchdog = Watchdog(beats, 0.02, lambda: calls.append(None))
    watchdog.start()
    assert enough.wait(PATIENCE_SECONDS)
    watchdog.stop()
    assert calls == []


def test_a_process_that_is_given_up_says_where_it_stood_and_ends_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    statuses: list[int] = []
    said: list[bool] = []
    monkeypatch.setattr("os._exit", statuses.append)
    monkeypatch.setattr("faulthandler.dump_traceback", lambda *, file, all_threads: said.append(all_threads))
    exit_process()
    assert said == [True]
    assert statuses == [EXIT_STATUS] and EXIT_STATUS != 0
