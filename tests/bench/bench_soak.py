"""A long time of mixed load with faults against ``ferry serve``: is memory flat, and is nothing lost?

python -m tests.bench.bench_soak --minutes 60 --json soak.json --plot soak.png
python -m tests.bench.bench_soak --minutes 2 --load 0.3 -- --precision float32

Requests arrive as a Poisson process at a share of the capacity that is measured at the start, three times as many in a
burst that comes again and again, whatever became of those before them. Most are good; others bring a deadline that
may pass, hang up, hold text that makes the model fail, or make no sense; and the checkpoint is exchanged for another
one with the same weights under way. Every answer is compared with what the service says when it has nothing else to do.
What follows ``--`` goes to ``ferry serve``, which computes in the precision that it would choose by itself. Exits with
status 1 if anything was lost or wrong, or memory not flat.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from app.bench import machine
from app.bench.load import Outcome, poisson, saturate
from app.settings import BUNDLED
from model.checkpoint import SUMS, read_config
from tests.bench.soak_report import Figures, Memory, Soak, draw, figures
from tests.bench.soak_traffic import CLIENT_SECONDS, Request, Traffic
from tests.system.faulty_service import FAULTY
from tests.system.service_process import ServiceProcess, serving
from tokenizer.subword import load_tokenizers

CACHE_TOKENS = "4000"  # a third of the texts: most are to be translated again
SEGMENTS = 7.7  # of an average request of all kinds
BURST_SECONDS, BURST_RATE = 5.0, 3.0
CAPACITY_SECONDS = 10.0
CLIENTS = 64  # that measure the capacity


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--load", type=float, default=0.7, help="share of the capacity, outside bursts")
    parser.add_argument("--rate", type=float, help="requests a second, instead of a share of the capacity")
    parser.add_argument("--burst-every", type=float, default=120.0, help="seconds; 0 for none")
    parser.add_argument("--reload-every", type=float, default=300.0, help="seconds; 0 for never")
    parser.add_argument("--source", type=Path, help="text, a sentence a line; else random words of the tokenizer")
    parser.add_argument("--texts", type=int, default=500, help="different ones")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them here, as PNG")
    parser.add_argument("serve", nargs="*", help="flags of ferry serve")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, two_checkpoints(Path(temporary)) as checkpoint:
        flags = ("--checkpoint", checkpoint, "--cache-tokens", CACHE_TOKENS, "--precision", "auto", *arguments.serve)
        with serving(Path(temporary), *flags, ferry=FAULTY) as service:
            soak = asyncio.run(run(service, checkpoint, arguments))
    found = figures(soak)
    show(found)
    if arguments.json:
        arguments.json.write_text(json.dumps(found._asdict(), indent=2) + "\n")
    if arguments.plot:
        draw(soak, found, arguments.plot)
    sys.exit(not found.passed)


async def run(service: ServiceProcess, checkpoint: Path, arguments: argparse.Namespace) -> Soak:
    """Measure the capacity, then send requests for as long as was asked."""
    config = read_config(checkpoint)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    async with httpx.AsyncClient(base_url=service.url, timeout=CLIENT_SECONDS, limits=limits) as client:
        traffic = Traffic(client, texts(checkpoint, arguments.source, arguments.texts), (config.source, config.target))
        await traffic.learn()
        (model,) = (await client.get("/v1/models")).raise_for_status().json()["models"]
        rate = arguments.rate or arguments.load * await capacity(traffic) / SEGMENTS
        print(f"{rate:.2f} requests a second", file=sys.stderr)
        arrivals = planned(rate, arguments)
        memory: list[Memory] = []
        reloads: list[float] = []
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch(service.process.pid, began, memory))
            reloading = group.create_task(reload(service, checkpoint, arguments.reload_every, began, reloads))
            requests = await send(traffic, arrivals, began)
            watching.cancel()
            reloading.cancel()
        seconds = time.monotonic() - began
    left = service.metric("ferry_queue_tokens")
    return Soak(seconds, requests, memory, reloads, left, f"{machine.read()}, {model['serving_precision']}")


async def capacity(traffic: Traffic) -> float:
    """Sentences a second when as many clients ask as the batch can hold."""

    async def ask(number: int) -> Outcome:
        _, verdict = await traffic.one(random.Random(number))
        return "answered" if verdict == "answered" else "failed"

    return await saturate(ask, CLIENTS, CAPACITY_SECONDS)


def planned(rate: float, arguments: argparse.Namespace) -> list[float]:
    """Times of arrival, seconds from the beginning: a Poisson process, faster in the bursts."""
    seconds, every = arguments.minutes * 60, arguments.burst_every
    arrivals: list[float] = []
    start, number = 0.0, arguments.seed
    while start < seconds:
        calm = min(every - BURST_SECONDS if every else seconds, seconds - start)
        arrivals += [start + at for at in poisson(rate, calm, number)]
        start += calm
        if start < seconds:
            arrivals += [start + at for at in poisson(BURST_RATE * rate, BURST_SECONDS, -number)]
            start += BURST_SECONDS
        number += 1
    return arrivals


async def send(traffic: Traffic, arrivals: Sequence[float], began: float) -> list[Request]:
    """Ask at each of ``arrivals``, whatever became of those before; wait until all have ended."""
    requests: list[Request] = []

    async def one(number: int, due: float) -> None:
        kind, status, verdict = await traffic.ask(number)
        requests.append(Request(kind, due, time.monotonic() - began - due, status, verdict))

    async with asyncio.TaskGroup() as group:
        for number, due in enumerate(arrivals):
            await asyncio.sleep(max(0.0, due - (time.monotonic() - began)))
            group.create_task(one(number, due))
    return requests


async def watch(process: int, began: float, memory: list[Memory]) -> None:
    """Note the resident memory of the process, once a second."""
    page = os.sysconf("SC_PAGE_SIZE")
    while True:
        resident = int(Path(f"/proc/{process}/statm").read_text().split()[1]) * page
        memory.append(Memory(time.monotonic() - began, resident))
        await asyncio.sleep(1.0)


async def reload(service: ServiceProcess, checkpoint: Path, every: float, began: float, reloads: list[float]) -> None:
    """Exchange the checkpoint behind the link for the other one, again and again, and tell the service."""
    while every:
        await asyncio.sleep(every)
        name = "second" if checkpoint.resolve().name == "first" else "first"
        link = checkpoint.with_name("next")
        link.symlink_to(checkpoint.with_name(name))
        link.rename(checkpoint)
        service.process.send_signal(signal.SIGHUP)
        reloads.append(time.monotonic() - began)


@contextmanager
def two_checkpoints(folder: Path) -> Iterator[Path]:
    """A link to one of two checkpoints of the same weights that differ in their cards."""
    for name in ("first", "second"):
        copy = folder / name
        shutil.copytree(BUNDLED / "en-de", copy)
        with (copy / "README.md").open("a") as card:
            card.write(f"\nThe {name} copy.\n")
        files = sorted(file for file in copy.iterdir() if file.name != SUMS)
        sums = (f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files)
        (copy / SUMS).write_text("".join(sums))
    link = folder / "current"
    link.symlink_to(folder / "first")
    yield link


def texts(checkpoint: Path, source: Path | None, count: int) -> list[str]:
    """Different texts: lines of a file, or random pieces of the tokenizer, which mean nothing."""
    if source is not None:
        lines = dict.fromkeys(line.strip() for line in source.read_text("utf-8").splitlines())
        return [line for line in lines if line][:count]
    subword, draw = load_tokenizers(checkpoint).source, random.Random(5)
    words = [subword.decode([piece]) for piece in range(4, subword.vocabulary_size)]
    readable = [piece for piece, word in enumerate(words, 4) if word.isprintable() and word.strip("\ufffd\u2047 ")]
    drawn = (subword.decode(draw.choices(readable, k=draw.randint(4, 24))) for _ in range(2 * count))
    return [text for text in dict.fromkeys(drawn) if "\ufffd" not in text][:count]


def show(found: Figures) -> None:
    """Print the figures."""
    print(f"{found.machine}; {found.seconds / 60:.1f} minutes, {found.requests} requests, {found.reloads} reloads")
    for kind, verdicts in found.verdicts.items():
        counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
        spread = found.latency_ms.get(kind)
        waits = (
            "" if spread is None else "; answered in " + ", ".join(f"{n} {v:.0f}" for n, v in spread.items()) + " ms"
        )
        print(f"{kind:11} {counts}{waits}")
    print(f"{found.lost} lost, {found.wrong} wrong, {found.queue_tokens:.0f} tokens left in the queue")
    print(f"memory, MB, by tenths: {' '.join(f'{value:.0f}' for value in found.memory_mb)}: {found.memory_change:+.1%}")
    print("passed" if found.passed else "failed")


if __name__ == "__main__":
    main()
