"""The engine's parts by themselves: the queue, the room in a batch, the rate."""

from __future__ import annotations

import asyncio
import math

import pytest
from engine_harness import job

from app.engine import NotReadyError, QueueFullError, RequestTooLargeError
from app.engine.batch import Budget, Room
from app.engine.jobs import Request
from app.engine.queue import RequestQueue
from app.engine.rate import WINDOW_SECONDS, Rate


@pytest.fixture
def queue() -> RequestQueue:
    return RequestQueue(100, ["en-de", "en-fr"])


def request(*lengths: int, model: str = "en-de") -> Request:
    loop = asyncio.new_event_loop()
    try:
        return Request(model, [job(length) for length in lengths], loop)
    finally:
        loop.close()


def take_lengths(queue: RequestQueue, model: str = "en-de") -> list[int]:
    lengths = []
    while (slot := queue.take(model, lambda _: True)) is not None:
        lengths.append(len(slot.job.pieces))
    return lengths


def test_requests_take_turns_in_the_order_of_their_arrival(queue: RequestQueue) -> None:
    for item in (request(1, 2, 3), request(11), request(21, 22)):
        queue.put(item, 10.0)
    assert take_lengths(queue) == [1, 11, 21, 2, 22, 3]


def test_each_model_has_its_own_turns(queue: RequestQueue) -> None:
    queue.put(request(1, 2), 10.0)
    queue.put(request(11, model="en-fr"), 10.0)
    assert take_lengths(queue, "en-fr") == [11]
    assert take_lengths(queue, "en-de") == [1, 2]


def test_a_job_that_does_not_fit_is_not_overtaken(queue: RequestQueue) -> None:
    queue.put(request(30), 10.0)
    queue.put(request(1), 10.0)
    assert queue.take("en-de", lambda item: len(item.pieces) < 10) is None
    assert take_lengths(queue) == [30, 1]


def test_retry_after_is_the_time_until_there_is_room_at_the_measured_rate(queue: RequestQueue) -> None:
    queue.put(request(79), 10.0)
    with pytest.raises(QueueFullError) as caught:
        queue.put(request(49), 15.0)
    assert caught.value.retry_after == pytest.approx((80 + 50 - 100) / 15)
    assert caught.value.limit == queue.limit == 100


def test_tokens_count_until_their_job_is_done(queue: RequestQueue) -> None:
    queue.put(request(39, 49), 10.0)
    slots = [queue.take("en-de", lambda _: True) for _ in range(2)]
    assert queue.tokens == 90
    for slot, left in zip(slots, (50, 0), strict=True):
        assert slot is not None
        queue.release(slot)
        assert queue.tokens == left


def test_a_dropped_request_gives_back_what_is_left_of_it_once(queue: RequestQueue) -> None:
    item = request(9, 19, 29)
    queue.put(item, 10.0)
    slot = queue.take("en-de", lambda _: True)
    assert slot is not None
    queue.release(slot)
    queue.drop(item)
    queue.drop(item)
    queue.release(slot)
    assert item.gone and queue.tokens == 0
    assert not queue.waits("en-de") and queue.requests() == []


def test_a_full_queue_refuses_for_good_only_what_never_fits(queue: RequestQueue) -> None:
    queue.put(request(99), 10.0)
    with pytest.raises(RequestTooLargeError):
        queue.put(request(100), 10.0)
    with pytest.raises(QueueFullError):
        queue.put(request(99), 10.0)


def test_a_closed_queue_refuses_new_requests_and_hands_out_the_old(queue: RequestQueue) -> None:
    queue.put(request(5), 10.0)
    queue.close()
    with pytest.raises(NotReadyError):
        queue.put(request(5), 10.0)
    assert take_lengths(queue) == [5]


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
