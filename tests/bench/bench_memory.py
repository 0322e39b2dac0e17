"""Resident memory over rounds of work and reloads, as the service bounds it and as the libraries alone would have it.

python -m tests.bench.bench_memory
python -m tests.bench.bench_memory --precision float32

Each in a process of its own, with the bundled en-de: in every round sentences of all lengths are translated in
two lanes, then the model is exchanged. The figures are megabytes after each round: with what is free and has not been
given back yet, and without.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import subprocess
import sys
from pathlib import Path

from app import memory
from app.engine import Engine, SegmentJob
from app.loading import Loader
from app.settings import BUNDLED
from model.precision import Precision
from model.search import SearchOptions
from tests.bench import machine

NAME, LANES, REQUESTS, BATCH_TOKENS, BATCH_ROWS = "en-de", 2, 24, 4096, 160
OWN_WAY = {
    "MALLOC_ARENA_MAX": "",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "1024",
    "LRU_CACHE_CAPACITY": "1024",
    "GLIBC_TUNABLES": "",
}  # what they do when nobody says anything
AS_THEY_COME = {"GLIBC_TUNABLES": ""}  # what loading takes for a moment, out of the heaps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        memory.bound()
        print(*(f"{full}-{least}" for full, least in asyncio.run(_rounds(arguments.rounds, arguments.precision))))
        return
    print(machine.describe(), machine.load(), arguments.precision, sep=", ")
    for name, environment in (("bound", {}), ("loads in the heaps", AS_THEY_COME), ("free", OWN_WAY)):
        command = [sys.executable, "-m", "tests.bench.bench_memory", "--inside", *sys.argv[1:]]
        done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
        print(f"{name}: {done.stdout.splitlines()[-1]}")


async def _rounds(count: int, precision: Precision) -> list[tuple[int, int]]:
    """Resident megabytes after each round, before and after what is free is given back."""
    loader, draw = Loader(precision, False, {}), random.Random(1)
    engine = Engine(
        {NAME: loader.read(BUNDLED / NAME)[1]},
        queue_tokens=100_000,
        batch_tokens=BATCH_TOKENS,
        batch_rows=BATCH_ROWS,
        threads=LANES,
        lanes=LANES,
    )
    engine.start()
    await asyncio.to_thread(engine.wait_until_ready, 60.0)
    found = []
    for _ in range(count):
        await asyncio.gather(*(engine.translate(NAME, _jobs(draw), None) for _ in range(REQUESTS)))
        _, fresh = await asyncio.to_thread(loader.read, BUNDLED / NAME)
        await asyncio.to_thread(engine.load, NAME, *fresh)
        del fresh
        await engine.translate(NAME, _jobs(draw), None)
        full = _resident()
        await asyncio.to_thread(memory.give_back)
        found.append((full, _resident()))
    await asyncio.to_thread(engine.stop, 1.0)
    return found


def _jobs(draw: random.Random) -> list[SegmentJob]:
    """A request of a few segments."""
    lengths = [draw.randint(2, 40) for _ in range(draw.randint(1, 12))]
    return [
        SegmentJob(tuple(draw.choices(range(10, 3000), k=length)), SearchOptions(draw.choice([1, 3, 5])))
        for length in lengths
    ]


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)


if __name__ == "__main__":
    main()
