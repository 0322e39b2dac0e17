"""The event loop that looks at its sockets seldom under load: when it does, and that nothing is lost of it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from app import gathering, server
from app.gathering import LONGEST_SECONDS, SHARE, GatheringSelector, event_loop
from app.hangup import Hangup
from app.main import create_app
from app.settings import Settings


class Time:
    """Stands in for the module ``time``: sleeping takes as long as it should, and everything else no time."""

    def __init__(self) -> None:
        self.now, self.slept = 50.0, 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0  # to sleep for no time gives up Python's lock all the same
        self.now += seconds
        self.slept += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    clock = Time()
    monkeypatch.setattr(gathering, "time", clock)
    return clock


@pytest.fixture
def load() -> SimpleNamespace:
    """How long a sentence would wait."""
    return SimpleNamespace(seconds=0.0)


@pytest.fixture
def selector(clock: Time, load: SimpleNamespace) -> Iterator[GatheringSelector]:
    """With a socket that can be read."""
    ours, theirs = socket.socketpair()
    selector = GatheringSelector(lambda: load.seconds)
    selector.register(ours, 1)
    theirs.send(b"x")
    with ours, theirs, selector:
        yield selector


def test_where_nothing_waits_it_looks_each_time(selector: GatheringSelector, clock: Time) -> None:
    for timeout in (0, None, 1.0, 0):
        assert len(selector.select(timeout)) == 1
    assert not clock.slept


@pytest.mark.parametrize(("wait", "pause"), [(0.5, 0.5 * SHARE), (5.0, LONGEST_SECONDS), (3600.0, LONGEST_SECONDS)])
def test_the_next_look_comes_a_share_of_the_wait_later(
    selector: GatheringSelector, clock: Time, load: SimpleNamespace, wait: float, pause: float
) -> None:
    load.seconds = wait
    assert len(selector.select(None)) == 1 and not clock.slept
    assert len(selector.select(None)) == 1
    assert clock.slept == pytest.approx(pause)
    assert len(selector.select(1.0)) == 1
    assert clock.slept == pytest.approx(2 * pause)


def test_what_is_to_be_done_meanwhile_does_not_wait(
    selector: GatheringSelector, clock: Time, load: SimpleNamespace
) -> None:
    load.seconds = 60.0
    selector.select(None)
    assert selector.select(0) == [] and not clock.slept
    clock.now += LONGEST_SECONDS
    assert len(selector.select(0)) == 1 and not clock.slept


def test_a_timer_is_not_late(selector: GatheringSelector, clock: Time, load: SimpleNamespace) -> None:
    load.seconds = 60.0
    selector.select(None)
    assert selector.select(LONGEST_SECONDS / 4) == []
    assert clock.slept == pytest.approx(LONGEST_SECONDS / 4)


def test_when_the_wait_is_over_it_looks_each_time_again(
    selector: GatheringSelector, clock: Time, load: SimpleNamespace
) -> None:
    load.seconds = 60.0
    selector.select(None)
    load.seconds = 0.0
    selector.select(None)
    before = clock.slept
    assert len(selector.select(None)) == 1 and clock.slept == before


def test_a_loop_under_load_serves_sockets_threads_and_timers() -> None:
    async def work() -> list[bytes]:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while line := await reader.readline():
                writer.write(line)
            writer.close()

        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        told = asyncio.Event()
        loop = asyncio.get_running_loop()
        thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(told.set))
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            answers = []
            for number in range(3):
                writer.write(b"%d\n" % number)
                answers.append(await reader.readline())
            thread.start()
            await asyncio.wait_for(told.wait(), 60)
            await asyncio.sleep(0.001)
            writer.close()
            await writer.wait_closed()
        thread.join()
        return answers

    with asyncio.Runner(loop_factory=lambda: event_loop(lambda: 3600.0)) as runner:
        assert runner.run(work()) == [b"0\n", b"1\n", b"2\n"]


@pytest.mark.filterwarnings("ignore:coroutine 'Server.serve' was never awaited")
def test_it_is_the_loop_that_the_server_runs_on(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uvicorn would take its own without a word, should it ask for one in another way some day."""

    class Made(Exception):
        pass

    def made(wait_seconds: Callable[[], float]) -> asyncio.AbstractEventLoop:
        assert wait_seconds() == 0
        raise Made

    monkeypatch.setattr(server, "event_loop", made)
    app = create_app(Settings(checkpoints=(tiny_checkpoint,), precision="float32", threads=1))
    config = server.GatheringConfig(app, log_config=None)
    with pytest.raises(Made):
        server.DrainingServer(config, app.state.service, cast(Hangup, None), lambda _: None).run()
