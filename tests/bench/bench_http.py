"""Sentences/s of ``ferry serve`` as clients meet it: requests of one sentence each, over HTTP, on kept connections.

python -m tests.bench.bench_http --source ../shared/data/multi30k/train.en.xz -- --threads 2 --lanes 2 --precision int8
python -m tests.bench.bench_http --clients 16 --clients 64 -- --workers 2
python -m tests.bench.bench_http --clients 256 --load 2 -- --longest-wait-seconds 5

``ferry bench`` measures the engine; this has all that is around it as well: the server, the API, the log. Clients ask
again as soon as they are answered, each with another sentence, and the service remembers none. They are one process
that does next to nothing, but has its share of the cores. What follows ``--`` goes to ``ferry serve``.

With ``--load`` there come, in the end, so many times as many requests as most clients had answered, whether answers
come or not (Poisson arrivals), and then those clients once more, as the machine drifts. Who is refused does not ask
again. As short sentences have less to wait for, more of those are answered: so what is answered is counted in
characters as well, as sentences of the length of all that were asked for.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import re
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
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
            capacity = statistics.median(each.rate for each in found[max(clients)])
            load = asyncio.run(_load(url, bodies, arguments.load * capacity, arguments.load_seconds))
            again = asyncio.run(_round(url, bodies, max(clients), arguments.seconds)).rate
            shares = " and ".join(f"{load.even_rate / rate:.0%} of the {rate:.0f}" for rate in (capacity, again))
            loaded = [f"{arguments.load:g} times {capacity:.0f}: {load}", f"by length {shares} before and after"]
    print(machine.describe(), machine.load(), f"{len(sentences)} sentences", *arguments.serve, sep=", ")
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


async def _round(url: httpx.URL, bodies: Iterator[bytes], clients: int, seconds: float) -> Round:
    began = time.perf_counter()
    done: list[tuple[float, float]] = []  # when, and after how long

    async def client() -> None:
        reader, writer = await asyncio.open_connection(url.host, url.port)
        try:
            while (asked := time.perf_counter()) - began < seconds:
                body = next(bodies)
                writer.write(_request(url, body))
                await _answer(reader)
                now = time.perf_counter()
                done.append((now - began, now - asked))
        finally:
            writer.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    steady = sorted(took for at, took in done if RAMP * seconds < at < seconds)
    return Round(len(steady) / ((1 - RAMP) * seconds), statistics.median(steady), steady[int(0.99 * len(steady))])


async def _load(url: httpx.URL, bodies: Iterator[bytes], rate: float, seconds: float) -> Load:
    began = time.perf_counter()
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    replies: list[Reply] = []

    async def ask(body: bytes) -> None:
        asked = time.perf_counter()
        reader, writer = idle.pop() if idle else await asyncio.open_connection(url.host, url.port)
        writer.write(_request(url, body))
        status, _ = await _read(reader)
        idle.append((reader, writer))
        now = time.perf_counter()
        replies.append(Reply(now - began, now - asked, status, len(body)))

    chance, next_at = random.Random(1), 0.0
    async with asyncio.TaskGroup() as group:
        while (next_at := next_at + chance.expovariate(rate)) < seconds:
            await asyncio.sleep(max(0.0, next_at - (time.perf_counter() - began)))
            group.create_task(ask(next(bodies)))
    for _, writer in idle:
        writer.close()
    steady = [reply for reply in replies if reply.status == 200 and FILLING * seconds < reply.at < seconds]
    answered, span = len(steady), (1 - FILLING) * seconds
    envelope = len(json.dumps({"text": "", "source": "en", "target": "de"}))
    length = sum(reply.length - envelope for reply in replies) / len(replies)
    return Load(answered / span, sum(reply.length - envelope for reply in steady) / length / span, replies)


def _middle(times: Sequence[float]) -> str:
    return f"{statistics.median(times):.3f} s"


def _request(url: httpx.URL, body: bytes) -> bytes:
    head = f"POST /v1/translate HTTP/1.1\r\nHost: {url.host}\r\nContent-Type: application/json\r\nContent-Length: "
    return head.encode() + f"{len(body)}\r\n\r\n".encode() + body


async def _answer(reader: asyncio.StreamReader) -> None:
    """Read one. Raises RuntimeError if it is not 200."""
    status, text = await _read(reader)
    if status != 200:
        raise RuntimeError(f"the service answered {text.decode()}")


async def _read(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Read an answer: its status, and all of it."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = LENGTH.search(head)
    body = await reader.readexactly(int(length[1])) if length else b""
    return int(head.split(None, 2)[1]), head + body


if __name__ == "__main__":
    main()
