"""Sentences/s of ``ferry serve`` as clients meet it: requests of one sentence each, over HTTP, on kept connections.

python -m tests.bench.bench_http --source ../shared/data/multi30k/train.en.xz -- --threads 2 --lanes 2 --precision int8
python -m tests.bench.bench_http --clients 16 --clients 64 -- --workers 2
python -m tests.bench.bench_http --clients 256 --load 2 -- --longest-wait-seconds 5

``ferry bench`` measures the engine; this has all that is around it as well: the server, the API, the log. Clients ask
again as soon as they are answered, each with another sentence, and the service remembers none. They are one process
that does next to nothing, but has its share of the cores. What follows ``--`` goes to ``ferry serve``.

With ``--load`` there come, in the end, so many times as many requests as most clients had answered, whether answers
come or not (Poisson arrivals), ``--loads`` times; and before each, and after the last, those clients once more, as
the machine drifts: what is answered is set beside the mean of both. Who is refused does not ask again. As short
sentences have less to wait for, more of those are answered: so what is answered is counted in characters as well, as
sentences of the length of all that were asked for. More requests cost their clients more, which would be another
machine's elsewhere: so the answers are also set beside each other for each second of processor that is left to the
service, as far as it has all that the clients leave.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import httpx

from app.settings import BUNDLED
from model.checkpoint import read_config
from tests.bench import machine
from tests.bench.bench_soak import texts
from tests.system.service_process import serving
from training.reading import read_lines

RAMP = 0.2  # of the time, at the start: everybody asks at once
FILLING = 0.3  # of the time of a load, at the start: what waits becomes more
MOST = 20_000  # different sentences
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class Round(NamedTuple):
    """What some clients had in some seconds."""

    rate: float  # answers a second
    median: float  # seconds
    slow: float  # seconds; one of a hundred takes longer
    cores: float  # that the clients took


class Reply(NamedTuple):
    """To a request of a load."""

    at: float  # seconds since the load began
    took: float  # seconds
    status: int
    length: int  # of the request's body


class Load(NamedTuple):
    """What came of requests that came whether answers did or not."""

    rate: float  # answers a second
    even_rate: float  # those by length: in sentences as long as all that were asked for
    replies: Sequence[Reply]
    cores: float  # that the clients took

    def __str__(self) -> str:
        answered = sorted(reply.took for reply in self.replies if reply.status == 200)
        refused = sorted(reply.took for reply in self.replies if reply.status == 429)
        text = f"{self.rate:.0f} answered a second, by length {self.even_rate:.0f}; {len(self.replies)} requests"
        for name, times in (("answered", answered), ("refused", refused)):
            if times:
                text += f", {len(times)} {name}, median {_middle(times)}, worst {times[-1]:.3f} s"
        return text + f", {len(self.replies) - len(answered) - len(refused)} other"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=BUNDLED / "en-de")
    parser.add_argument("--source", type=Path, help="text, a sentence a line; else random words of the tokenizer")
    parser.add_argument("--clients", type=int, action="append", help="at once; repeatable")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--load", type=float, help="requests, in parts of what most clients had answered")
    parser.add_argument("--load-seconds", type=float, default=30.0)
    parser.add_argument("--loads", type=int, default=3)
    parser.add_argument("serve", nargs="*", help="flags of ferry serve")
    arguments = parser.parse_args()
    config = read_config(arguments.checkpoint)
    sentences = _sentences(arguments)
    bodies = (
        json.dumps({"text": text, "source": config.source, "target": config.target}).encode()
        for text in itertools.cycle(sentences)
    )
    flags = ("--checkpoint", arguments.checkpoint, "--cache-tokens", "0", "--precision", "auto", *arguments.serve)
    clients = arguments.clients or [64]
    found: dict[int, list[Round]] = {count: [] for count in clients}
    loaded: list[str] = []
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), *flags) as service:
        url = httpx.URL(service.url)
        asyncio.run(_round(url, bodies, max(clients), arguments.seconds))  # warms up
        for _ in range(arguments.rounds):
            for count in clients:
                found[count].append(asyncio.run(_round(url, bodies, count, arguments.seconds)))
        if arguments.load:
            loaded = asyncio.run(_loads(url, bodies, max(clients), arguments))
        (model,) = httpx.get(f"{service.url}/v1/models").raise_for_status().json()["models"]
    precision, texts_in_turn = model["serving_precision"], f"{len(sentences)} sentences"
    print(machine.describe(), machine.load(), precision, texts_in_turn, *arguments.serve, sep=", ")
    for count, rounds in found.items():
        rates = ", ".join(f"{each.rate:.0f}" for each in rounds)
        print(
            f"{count} clients: {statistics.median(each.rate for each in rounds):.0f} sentences/s ({rates}), median "
            f"{statistics.median(each.median for each in rounds) * 1000:.0f} ms, p99 "
            f"{statistics.median(each.slow for each in rounds) * 1000:.0f} ms"
        )
    for line in loaded:
        print(line)


def _sentences(arguments: argparse.Namespace) -> Sequence[str]:
    if arguments.source is None:
        return texts(arguments.checkpoint, None, MOST)
    lines = (line.strip() for line in itertools.islice(read_lines(arguments.source), MOST))
    return list(dict.fromkeys(line for line in lines if line))


class Connection(asyncio.Protocol):
    """A kept connection, one request at a time. It does as little as it can: it takes from the service's cores."""

    def __init__(self, head: bytes) -> None:
        self._head, self._received = head, b""
        self._transport: asyncio.Transport | None = None
        self._answered: Callable[[int, bytes], None] | None = None

    @classmethod
    async def open(cls, url: httpx.URL) -> Connection:
        head = f"POST /v1/translate HTTP/1.1\r\nHost: {url.host}\r\nContent-Type: application/json\r\nContent-Length: "
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: cls(head.encode()), url.host, url.port)
        return connection

    def ask(self, body: bytes, answered: Callable[[int, bytes], None]) -> None:
        """Send a request; ``answered`` gets the answer's status and all of it."""
        assert self._transport is not None and self._answered is None
        self._answered = answered
        self._transport.write(b"%b%d\r\n\r\n%b" % (self._head, len(body), body))

    @property
    def closed(self) -> bool:
        """Whether it was closed, by either side: the service does that to those that nobody uses for long."""
        return self._transport is None or self._transport.is_closing()

    def close(self) -> None:
        self._answered = None
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        length = LENGTH.search(self._received, 0, end)
        if len(self._received) < end + 4 + (int(length[1]) if length else 0):
            return
        received, answered = self._received, self._answered
        self._received, self._answered = b"", None
        if answered is not None:
            answered(int(received[9:12]), received)

    def connection_lost(self, error: Exception | None) -> None:
        if self._answered is not None:
            self._answered(0, repr(error).encode())


async def _round(url: httpx.URL, bodies: Iterator[bytes], clients: int, seconds: float) -> Round:
    """Raises RuntimeError if one is not answered with 200."""
    connections = [await Connection.open(url) for _ in range(clients)]
    began, worked = time.perf_counter(), time.process_time()
    done: list[tuple[float, float]] = []  # when, and after how long
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    working = clients

    def ask(connection: Connection) -> None:
        nonlocal working
        asked = time.perf_counter()
        if asked - began >= seconds:
            working -= 1
            if not working and not over.done():
                over.set_result(None)
            return

        def answered(status: int, answer: bytes) -> None:
            now = time.perf_counter()
            done.append((now - began, now - asked))
            if status == 200:
                ask(connection)
            elif not over.done():
                over.set_exception(RuntimeError(f"the service answered {answer.decode()}"))

        connection.ask(next(bodies), answered)

    try:
        for connection in connections:
            ask(connection)
        await over
    finally:
        for connection in connections:
            connection.close()
    cores = (time.process_time() - worked) / (time.perf_counter() - began)
    steady = sorted(took for at, took in done if RAMP * seconds < at < seconds)
    rate = len(steady) / ((1 - RAMP) * seconds)
    return Round(rate, statistics.median(steady), steady[int(0.99 * len(steady))], cores)


async def _loads(url: httpx.URL, bodies: Iterator[bytes], clients: int, arguments: argparse.Namespace) -> list[str]:
    """A line for each, and one for all."""
    lines, shares, left = [], [], []
    seconds, cores = arguments.load_seconds / 3, len(os.sched_getaffinity(0))
    before = await _round(url, bodies, clients, seconds)
    for _ in range(arguments.loads):
        load = await _load(url, bodies, arguments.load * before.rate, arguments.load_seconds)
        after = await _round(url, bodies, clients, seconds)
        shares.append(2 * load.even_rate / (before.rate + after.rate))
        left.append(shares[-1] * (cores - (before.cores + after.cores) / 2) / (cores - load.cores))
        lines.append(
            f"{arguments.load:g} times {before.rate:.0f}: {load}; {after.rate:.0f} after it: {shares[-1]:.0%}; "
            f"clients took {before.cores:.2f}, {load.cores:.2f} and {after.cores:.2f} cores: {left[-1]:.0%}"
        )
        before = after
    share, fair = (statistics.median(each) for each in (shares, left))
    whole = f"by length {share:.0%} of what {clients} clients had before and after"
    return [*lines, f"{whole}, {fair:.0%} for each second of processor that they left"]


async def _load(url: httpx.URL, bodies: Iterator[bytes], rate: float, seconds: float) -> Load:
    began, worked = time.perf_counter(), time.process_time()
    idle: list[Connection] = []
    replies: list[Reply] = []
    asked = 0

    def ask(connection: Connection, body: bytes) -> None:
        at = time.perf_counter()

        def answered(status: int, _: bytes) -> None:
            now = time.perf_counter()
            replies.append(Reply(now - began, now - at, status, len(body)))
            if status:
                idle.append(connection)

        connection.ask(body, answered)

    chance, next_at = random.Random(1), 0.0
    while (next_at := next_at + chance.expovariate(rate)) < seconds:
        await asyncio.sleep(max(0.0, next_at - (time.perf_counter() - began)))
        while idle and idle[-1].closed:
            idle.pop()
        ask(idle.pop() if idle else await Connection.open(url), next(bodies))
        asked += 1
    cores = (time.process_time() - worked) / (time.perf_counter() - began)
    while len(replies) < asked:
        await asyncio.sleep(0.01)
    for connection in idle:
        connection.close()
    steady = [reply for reply in replies if reply.status == 200 and FILLING * seconds < reply.at < seconds]
    answered, span = len(steady), (1 - FILLING) * seconds
    envelope = len(json.dumps({"text": "", "source": "en", "target": "de"}))
    length = sum(reply.length - envelope for reply in replies) / len(replies)
    return Load(answered / span, sum(reply.length - envelope for reply in steady) / length / span, replies, cores)


def _middle(times: Sequence[float]) -> str:
    return f"{statistics.median(times):.3f} s"


if __name__ == "__main__":
    main()
