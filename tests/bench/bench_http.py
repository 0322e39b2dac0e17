"""Sentences/s of ``ferry serve`` as clients meet it: requests of one sentence each, over HTTP, on kept connections.

python -m tests.bench.bench_http --source ../shared/data/multi30k/train.en.xz -- --threads 2 --lanes 2 --precision int8
python -m tests.bench.bench_http --clients 16 --clients 64 -- --workers 2

``ferry bench`` measures the engine; this has all that is around it as well: the server, the API, the log. Clients ask
again as soon as they are answered, each with another sentence, and the service remembers none. They are one process
that does next to nothing, but has its share of the cores. What follows ``--`` goes to ``ferry serve``.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
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
MOST = 20_000  # different sentences
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class Round(NamedTuple):
    """What some clients had in some seconds."""

    rate: float  # answers a second
    median: float  # seconds
    slow: float  # seconds; one of a hundred takes longer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=BUNDLED / "en-de")
    parser.add_argument("--source", type=Path, help="text, a sentence a line; else random words of the tokenizer")
    parser.add_argument("--clients", type=int, action="append", help="at once; repeatable")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each round")
    parser.add_argument("--rounds", type=int, default=3)
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
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), *flags) as service:
        url = httpx.URL(service.url)
        asyncio.run(_round(url, bodies, max(clients), arguments.seconds))  # warms up
        for _ in range(arguments.rounds):
            for count in clients:
                found[count].append(asyncio.run(_round(url, bodies, count, arguments.seconds)))
    print(machine.describe(), machine.load(), f"{len(sentences)} sentences", *arguments.serve, sep=", ")
    for count, rounds in found.items():
        rates = ", ".join(f"{each.rate:.0f}" for each in rounds)
        print(
            f"{count} clients: {statistics.median(each.rate for each in rounds):.0f} sentences/s ({rates}), median "
            f"{statistics.median(each.median for each in rounds) * 1000:.0f} ms, p99 "
            f"{statistics.median(each.slow for each in rounds) * 1000:.0f} ms"
        )


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
        head = f"POST /v1/translate HTTP/1.1\r\nHost: {url.host}\r\nContent-Type: application/json\r\nContent-Length: "
        try:
            while (asked := time.perf_counter()) - began < seconds:
                body = next(bodies)
                writer.write(head.encode() + f"{len(body)}\r\n\r\n".encode() + body)
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


async def _answer(reader: asyncio.StreamReader) -> None:
    """Read one. Raises RuntimeError if it is not 200."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = LENGTH.search(head)
    body = await reader.readexactly(int(length[1])) if length else b""
    if not head.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(f"the service answered {head.decode()}{body.decode()}")


if __name__ == "__main__":
    main()
