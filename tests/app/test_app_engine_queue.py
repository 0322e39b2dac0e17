"""The queue: who comes next, who has to wait, who is refused."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import pytest
from engine_harness import generation, job, request

from app.engine import NotReadyError, Priority, QueueFullError, RequestTooLargeError
from app.engine.models import Generation
from app.engine.queue import RequestQueue
from app.engine.request import Slot
from app.engine.turns import HANDICAP_SECONDS, OVERTAKEN_AT_MOST

GERMAN, FRENCH = generation("en-de"), generation("en-fr")


class Clock:
    """Time as the test has it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 1e-6  # no two things happen at the same time
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(clock: Clock) -> Iterator[RequestQueue]:
    yield RequestQueue(100, clock=clock)


def take(queue: RequestQueue, model: Generation) -> Slot:
    """The only job that waits for a model."""
    slot = queue.take(model, lambda _: True)
    assert slot is not None and not queue.waits(model)
    return slot


def take_lengths(queue: RequestQueue, model: Generation = GERMAN, most: int = 1000) -> list[int]:
    """Lengths of the jobs that are handed out, in their order."""
    lengths: list[int] = []
    while len(lengths) < most and (slot := queue.take(model, lambda _: True)) is not None:
        lengths.append(len(slot.job.pieces))
    return lengths


def test_requests_take_turns_in_the_order_of_their_arrival(queue: RequestQueue) -> None:
    for item in (request(1, 2, 3, model=GERMAN), request(11, model=GERMAN), request(21, 22, model=GERMAN)):
        queue.put(item, 10.0)
    assert take_lengths(queue) == [1, 11, 21, 2, 22, 3]


def test_each_model_has_its_own_turns(queue: RequestQueue) -> None:
    queue.put(request(1, 2, model=GERMAN), 10.0)
    queue.put(request(11, model=FRENCH), 10.0)
    assert take_lengths(queue, FRENCH) == [11]
    assert take_lengths(queue, GERMAN) == [1, 2]
    assert queue.waiting_models() == []


def test_interactive_requests_come_before_bulk(queue: RequestQueue) -> None:
    queue.put(request(1, 2, model=GERMAN, priority=Priority.BULK), 10.0)
    queue.put(request(11, 12, model=GERMAN), 10.0)
    assert take_lengths(queue) == [11, 12, 1, 2]


def test_bulk_that_has_waited_long_enough_comes_before_later_interactive_requests(
    queue: RequestQueue, clock: Clock
) -> None:
    queue.put(request(1, 2, model=GERMAN, priority=Priority.BULK), 10.0)
    clock.now += HANDICAP_SECONDS[Priority.BULK] + 1
    queue.put(request(11, model=GERMAN), 10.0)
    assert take_lengths(queue) == [1, 11, 2]


def test_a_job_that_does_not_fit_is_overtaken_by_those_that_do(queue: RequestQueue) -> None:
    queue.put(request(30, model=GERMAN), 10.0)
    queue.put(request(1, model=GERMAN), 10.0)
    slot = queue.take(GERMAN, lambda item: len(item.pieces) < 10)
    assert slot is not None and len(slot.job.pieces) == 1
    assert take_lengths(queue) == [30]


def test_a_job_is_not_overtaken_for_ever(clock: Clock) -> None:
    queue = RequestQueue(10_000, clock=clock)
    queue.put(request(30, model=GERMAN), 10.0)
    for _ in range(OVERTAKEN_AT_MOST + 5):
        queue.put(request(1, model=GERMAN), 10.0)
    overtakers = 0
    while queue.take(GERMAN, lambda item: len(item.pieces) < 10) is not None:
        overtakers += 1
    assert overtakers == OVERTAKEN_AT_MOST
    assert take_lengths(queue, most=1) == [30]


def test_a_request_larger_than_what_was_refused_is_overtaken_anew_with_its_next_job(clock: Clock) -> None:
    queue = RequestQueue(10_000, clock=clock)
    queue.put(request(30, 31, model=GERMAN), 10.0)
    for _ in range(OVERTAKEN_AT_MOST + 2):
        queue.put(request(1, model=GERMAN), 10.0)
    while queue.take(GERMAN, lambda item: len(item.pieces) < 10) is not None:
        pass
    assert take_lengths(queue, most=1) == [30]
    assert queue.take(GERMAN, lambda item: len(item.pieces) < 10) is not None


def test_retry_after_is_the_time_until_there_is_room_at_the_measured_rate(queue: RequestQueue) -> None:
    queue.put(request(79, model=GERMAN), 10.0)
    with pytest.raises(QueueFullError, match="queue of 100 tokens has no room") as caught:
        queue.put(request(49, model=GERMAN), 15.0)
    assert caught.value.retry_after == pytest.approx((80 + 50 - 100) / 15)
    assert caught.value.limit == queue.limit == 100


def test_what_would_wait_too_long_is_refused_until_it_would_not(clock: Clock) -> None:
    queue = RequestQueue(10_000, longest_wait=2.0, clock=clock)
    queue.put(request(99, model=GERMAN), 30.0)
    with pytest.raises(QueueFullError, match=r"wait would be about 3\.3 seconds and may be 2") as caught:
        queue.put(request(99, model=GERMAN), 30.0)
    assert caught.value.retry_after == pytest.approx(100 / 30 - 2)
    queue.put(request(99, model=GERMAN), 60.0)


def test_a_refusal_says_for_how_long_it_holds_for_others(clock: Clock) -> None:
    queue = RequestQueue(1000, clock=clock)
    for _ in range(9):
        queue.put(request(99, model=GERMAN), 300.0)

    def refused(length: int, longest_wait: float, deadline: float | None = None, **options: Priority) -> QueueFullError:
        queue.longest_wait = longest_wait
        with pytest.raises(QueueFullError) as caught:
            queue.put(request(length, model=GERMAN, **options), 300.0, deadline)
        return caught.value

    error = refused(99, 2.9)  # it would wait for 900 tokens
    assert (error.retry_after, error.closed_seconds) == pytest.approx((0.1, 0.1))
    error = refused(99, 2.99)  # that would be soon, but a fiftieth of the wait has to pass
    assert (error.retry_after, error.closed_seconds) == pytest.approx((0.01, 0.06))
    assert str(error).endswith("try again in 0.1 seconds")  # never "in 0.0"
    assert refused(99, 2.9, priority=Priority.BULK).closed_seconds == 0.0  # an interactive one may wait for less
    assert refused(49, 60.0, deadline=clock() + 0.1).closed_seconds == 0.0  # others have other deadlines
    error = refused(199, 60.0)
    assert "no room" in str(error) and error.closed_seconds == pytest.approx(100 / 300)


def test_a_small_request_does_not_count_the_whole_of_a_large_one_as_its_wait(clock: Clock) -> None:
    queue = RequestQueue(10_000, longest_wait=2.0, clock=clock)
    queue.put(request(*[99] * 50, model=GERMAN), 100.0)
    queue.put(request(9, model=GERMAN), 100.0)
    with pytest.raises(QueueFullError):
        queue.put(request(*[99] * 50, model=GERMAN), 100.0)


def test_what_would_not_be_done_by_its_deadline_is_refused_at_once(clock: Clock) -> None:
    queue = RequestQueue(10_000, clock=clock)
    queue.put(request(99, model=GERMAN), 100.0)
    with pytest.raises(QueueFullError, match=r"would take about 2\.0 seconds and the deadline is in 1\.5") as caught:
        queue.put(request(99, model=GERMAN), 100.0, deadline=clock.now + 1.5)
    assert caught.value.retry_after == pytest.approx(0.5, abs=0.01)
    queue.put(request(99, model=GERMAN), 100.0, deadline=clock.now + 2.5)


def test_partial_answers_need_only_be_begun_by_their_deadline(clock: Clock) -> None:
    queue = RequestQueue(10_000, clock=clock)
    queue.put(request(99, model=GERMAN), 100.0)
    deadline = clock.now + 1.5
    queue.put(request(99, model=GERMAN, cut_at=deadline), 100.0, deadline)
    with pytest.raises(QueueFullError):
        queue.put(request(99, model=GERMAN, cut_at=deadline), 100.0, deadline)


def test_an_empty_queue_takes_whatever_the_deadline(clock: Clock) -> None:
    queue = RequestQueue(10_000, longest_wait=0.1, clock=clock)
    queue.put(request(99, model=GERMAN), 1.0, deadline=clock.now + 0.1)
    assert queue.tokens == 100


def test_tokens_count_until_their_job_is_done(queue: RequestQueue) -> None:
    item = request(39, 49, model=GERMAN)
    queue.put(item, 10.0)
    slots = [queue.take(GERMAN, lambda _: True) for _ in range(2)]
    assert queue.tokens == 90
    for slot, left in zip(slots, (50, 0), strict=True):
        assert slot is not None
        queue.release(slot)
        assert queue.tokens == left
    assert queue.requests() == []


def test_a_dropped_request_gives_back_what_is_left_of_it_once(queue: RequestQueue) -> None:
    item = request(9, 19, 29, model=GERMAN)
    queue.put(item, 10.0)
    slot = queue.take(GERMAN, lambda _: True)
    assert slot is not None
    queue.release(slot)
    queue.drop(item)
    queue.drop(item)
    queue.release(slot)
    assert item.gone and queue.tokens == 0
    assert not queue.waits(GERMAN) and queue.requests() == []


def test_an_abandoned_request_is_dropped_at_the_next_look(queue: RequestQueue) -> None:
    queue.put(item := request(9, model=GERMAN), 10.0)
    queue.abandon(item)
    assert item.gone
    queue.drop_abandoned()
    assert queue.tokens == 0 and not queue.waits(GERMAN)


def test_a_request_whose_time_is_over_hands_out_all_that_waits(queue: RequestQueue, clock: Clock) -> None:
    late = request(1, 2, 3, model=GERMAN, cut_at=clock.now + 1)
    queue.put(late, 10.0)
    queue.put(request(11, model=GERMAN), 10.0)
    assert take_lengths(queue, most=1) == [1]
    assert queue.cut() == [] and not late.cut
    clock.now += 2
    assert [slot.number for slot in queue.cut()] == [1, 2]
    assert late.cut and queue.cut() == []
    assert take_lengths(queue) == [11]


def test_a_full_queue_refuses_for_good_only_what_never_fits(queue: RequestQueue) -> None:
    queue.put(request(99, model=GERMAN), 10.0)
    with pytest.raises(RequestTooLargeError):
        queue.put(request(100, model=GERMAN), 10.0)
    with pytest.raises(QueueFullError):
        queue.put(request(99, model=GERMAN), 10.0)


def test_a_closed_queue_refuses_new_requests_and_hands_out_the_old(queue: RequestQueue) -> None:
    queue.put(request(5, model=GERMAN), 10.0)
    queue.close()
    with pytest.raises(NotReadyError):
        queue.put(request(5, model=GERMAN), 10.0)
    assert take_lengths(queue) == [5]


def test_waiting_jobs_are_those_not_handed_out(queue: RequestQueue) -> None:
    queue.put(request(1, 2, model=GERMAN), 10.0)
    queue.put(request(3, model=FRENCH), 10.0)
    assert queue.waiting_jobs == 3
    queue.take(GERMAN, lambda _: True)
    assert queue.waiting_jobs == 2


def test_a_request_hands_out_only_the_jobs_that_were_not_known(queue: RequestQueue) -> None:
    queue.put(request(1, 2, 3, model=GERMAN, waiting=[0, 2]), 10.0)
    assert queue.tokens == job(1).tokens + job(3).tokens
    assert take_lengths(queue) == [1, 3]


def test_a_request_that_is_done_is_not_kept_until_its_deadline(queue: RequestQueue, clock: Clock) -> None:
    done = request(1, model=GERMAN, cut_at=clock.now + 60)
    queue.put(done, 10.0)
    slot = queue.take(GERMAN, lambda _: True)
    assert slot is not None
    queue.release(slot)
    kept = weakref.ref(done)
    del done, slot
    assert kept() is None


def test_jobs_that_were_promised_come_later_in_the_place_of_their_promise(queue: RequestQueue) -> None:
    first, second = request(9, model=GERMAN), request(model=FRENCH, promised=10)
    queue.put(first, 10.0, also=[second])
    assert queue.tokens == 20 and queue.waiting_models() == [GERMAN]
    queue.release(take(queue, GERMAN))
    assert queue.tokens == 10 and queue.requests() == [second]
    assert queue.extend(second, [job(14)], [0], 10)
    assert queue.tokens == 15 and queue.waiting_jobs == 1
    queue.release(take(queue, FRENCH))
    assert queue.tokens == 0 and not queue.requests()


def test_a_promise_of_which_nothing_comes_ends_with_it(queue: RequestQueue) -> None:
    second = request(model=FRENCH, promised=10)
    queue.put(second, 10.0)
    assert queue.extend(second, [], [], 4) and queue.requests() == [second]
    queue.extend(second, [], [], 6)
    assert queue.tokens == 0 and not queue.requests()


def test_what_comes_after_the_deadline_or_for_nobody_is_not_taken(queue: RequestQueue, clock: Clock) -> None:
    late = request(model=FRENCH, promised=10, cut_at=clock.now + 1.0)
    gone = request(model=FRENCH, promised=10)
    queue.put(late, 10.0, also=[gone])
    clock.now += 2.0
    queue.cut()
    queue.drop(gone)
    assert not queue.extend(late, [job(4)], [0], 10) and not queue.extend(gone, [job(4)], [0], 10)
    assert queue.tokens == 0 and queue.waiting_jobs == 0 and not queue.requests()


def test_a_request_and_its_promise_are_refused_together(queue: RequestQueue) -> None:
    with pytest.raises(RequestTooLargeError):
        queue.put(request(59, model=GERMAN), 10.0, also=[request(model=FRENCH, promised=60)])
    assert queue.tokens == 0 and not queue.requests()


def test_what_is_ahead_of_a_sentence_that_came_now(queue: RequestQueue) -> None:
    assert queue.ahead(3) == 0
    queue.put(request(9, model=GERMAN), 10.0)
    assert queue.ahead(3) == 10  # a turn of it: the sentence, and its end
    queue.put(request(9, model=GERMAN, priority=Priority.BULK), 10.0)
    assert queue.ahead(3) == 10
