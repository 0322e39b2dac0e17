"""Memory is bounded before the libraries begin to take it, and given back."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from app import loading as app_loading
from app import memory, service
from app.memory import COMPILED_SHAPES, HEAPS, KEPT_SHAPES
from app.settings import Settings
from model.checkpoint import Checkpoint, load_checkpoint

# Every thread takes a little memory and keeps it; then glibc is asked for its heaps.
PROGRAM = """
import ctypes, os, sys, threading
from app import memory
if sys.argv[1] == "bound":
    memory.bound()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.fopen.restype = ctypes.c_void_p, ctypes.c_void_p
together = threading.Barrier(8)
def take():
    together.wait()
    libc.malloc(100_000)
    together.wait()
threads = [threading.Thread(target=take) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
stream = ctypes.c_void_p(libc.fopen(sys.argv[2].encode(), b"w"))
libc.malloc_info(0, stream)
libc.fclose(stream)
print(os.environ.get("ONEDNN_PRIMITIVE_CACHE_CAPACITY"), os.environ.get("LRU_CACHE_CAPACITY"))
"""

glibc = pytest.mark.skipif(sys.platform != "linux", reason="heaps are glibc's")


def heaps(tmp_path: Path, how: str, **environment: str) -> tuple[int, str]:
    """How many heaps there are at the end, and what oneDNN and torch's way to it are told."""
    report = tmp_path / "report.xml"
    known = {name: value for name, value in os.environ.items() if not name.endswith("CACHE_CAPACITY")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how, str(report)],
        env={**known, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return report.read_text().count("<heap nr="), done.stdout.strip()


@glibc
def test_threads_share_a_few_heaps(tmp_path: Path) -> None:
    assert heaps(tmp_path, "bound") == (HEAPS, f"{COMPILED_SHAPES} {KEPT_SHAPES}")
    found, told = heaps(tmp_path, "free")
    assert found > HEAPS and told == "None None"


@glibc
def test_what_the_environment_says_holds(tmp_path: Path) -> None:
    found, told = heaps(
        tmp_path, "bound", MALLOC_ARENA_MAX="1", ONEDNN_PRIMITIVE_CACHE_CAPACITY="7", LRU_CACHE_CAPACITY="5"
    )
    assert (found, told) == (1, "7 5")


# How many more blocks are the system's, of those asked for at each place.
BLOCKS = """
import contextlib, ctypes, sys
from app import memory
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks a b c d e f".split()]
libc.mallinfo2.restype = Info
def apart(size):
    before = libc.mallinfo2().hblks
    libc.malloc(size)  # and kept: what is free already would be taken first, whosever it is
    return libc.mallinfo2().hblks - before
if sys.argv[1] == "bound":
    memory.bound()
sizes = 160_000, 1_000_000, 40_000_000
found = [[apart(size) for size in sizes]]
with memory.loading():
    with memory.loading():
        found.append([apart(size) for size in sizes])
    found.append([apart(size) for size in sizes])
with contextlib.suppress(ValueError), memory.loading():
    raise ValueError  # as a checkpoint does that is none
found.append([apart(size) for size in sizes])
print(found)
"""


def blocks(how: str, **environment: str) -> str:
    command = [sys.executable, "-c", BLOCKS, how]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=True
    ).stdout.strip()


@glibc
def test_what_loading_takes_for_a_moment_is_not_of_the_heaps() -> None:
    assert blocks("bound") == "[[0, 0, 1], [0, 1, 1], [0, 1, 1], [0, 0, 1]]"


@glibc
def test_blocks_are_as_ever_where_nothing_was_bound_or_the_environment_says_so() -> None:
    # Which of them glibc takes from the system hangs on what the process has freed before, so on what it imported; but
    # it is the same at each place, which no bound process has.
    before, *later = json.loads(blocks("free"))
    assert later == [before] * 3
    assert blocks("bound", MALLOC_MMAP_THRESHOLD_="2000000") == "[[0, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 1]]"


def test_checkpoints_are_read_as_something_that_stays(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    @contextmanager
    def noted() -> Iterator[None]:
        events.append("loading")
        yield
        events.append("loaded")

    def read(folder: Path) -> Checkpoint:
        events.append("read")
        return load_checkpoint(folder)

    monkeypatch.setattr(app_loading, "loading", noted)
    monkeypatch.setattr(app_loading, "load_checkpoint", read)
    app_loading.Loader("float32", False, {}).read(tiny_checkpoint)
    assert events == ["loading", "read", "loaded"]


def test_a_service_gives_free_memory_back_again_and_again(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times: list[float] = []

    def noted() -> None:
        if threading.current_thread().name.startswith("of-this-test"):  # not those of a service of other tests
            times.append(time.monotonic())

    async def keep_house(kept: service.Service) -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1, "of-this-test"))
        keeping = asyncio.create_task(kept.keep_house())
        until = time.monotonic() + 60
        while len(times) < 3 and time.monotonic() < until:
            await asyncio.sleep(0.01)
        keeping.cancel()

    monkeypatch.setattr(service, "HOUSEKEEPING_SECONDS", 0.01)
    monkeypatch.setattr(service, "GIVE_BACK_SECONDS", 0.2)
    monkeypatch.setattr(service, "give_back", noted)
    kept = service.Service(Settings(checkpoints=(tiny_checkpoint,), threads=1, lanes=1, precision="float32"))
    kept.start()
    kept.engine.wait_until_ready(60)
    asyncio.run(keep_house(kept))
    kept.stop()
    assert len(times) >= 3
    assert all(later - earlier >= 0.2 for earlier, later in itertools.pairwise(times))


def test_what_is_set_apart_is_no_longer_searched_and_still_freed() -> None:
    class Thing:
        other: Thing

    def circle() -> weakref.ref[Thing]:
        thing = Thing()
        thing.other = thing
        return weakref.ref(thing)

    kept = Thing()
    freed, garbage = weakref.ref(kept), circle()
    memory.set_apart()
    try:
        assert garbage() is None and gc.get_freeze_count() > 1000
        assert kept not in gc.get_objects()
        del kept
        assert freed() is None
        later = circle()
        memory.set_apart()
        assert later() is None
    finally:
        gc.unfreeze()


def test_garbage_is_looked_for_seldom_and_when_asked_for() -> None:
    program = """
import gc, weakref
from app import memory
memory.bound()
class Loop: ...
loop = Loop()
loop.itself, gone = loop, weakref.ref(loop)
del loop
before = sum(item["collections"] for item in gc.get_stats())
many = [[] for _ in range(20_000)]
assert sum(item["collections"] for item in gc.get_stats()) == before and gone() is not None
memory.search()
assert gone() is None
"""
    subprocess.run([sys.executable, "-c", program], check=True)
