"""Memory that the libraries below would keep: bounded before they begin, and given back when it is free."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

# Heaps of the C library, which gives every thread one of its own: what was freed in one is of no use to the others.
HEAPS = 2
# From so many bytes on a block is not of a heap but of the system: it leaves no hole when it is freed, and to take one
# costs a page fault for each 4 KB. While something is loaded that is worth it: what is read, converted and dropped
# again leaves holes between that which stays, and requests take memory now in one and now in another of them. At work
# it is not. By itself glibc would raise both to the size of the largest block that was freed, and to twice that.
APART_LOADING = 256 * 1024
APART = 32 * 1024**2
KEPT_AT_THE_TOP = APART  # of a heap, before it goes back at once
M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -8, -3, -1  # of mallopt(3)
# By these the environment has a word in it: what they say is left as it is.
BLOCKS_SETTINGS = (
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_MMAP_MAX_",
    "MALLOC_TOP_PAD_",
    "GLIBC_TUNABLES",
)
# When Python looks for garbage by itself: at so many new objects that have not been freed, and at so many times of that
# among older ones, and oldest. By its own measure, 700 objects, it looks again and again under load, each
# time at what the requests under way are made of, while lanes and event loop wait: nearly nothing of it is garbage.
SEARCHES = (50_000, 20, 1_000)
# oneDNN keeps what it has compiled for a shape, 0.15 MB for a layer of the encoder and up to 1,024 of them: whatever
# number of sentences of whatever length. To compile it anew takes a fraction of the encoding.
COMPILED_SHAPES = "64"
# torch's way to oneDNN keeps up to 1,024 more of them, with the memory that they work in: in float32 and bfloat16 a
# hundred megabytes and more. What falls out here is still compiled in oneDNN's own cache.
KEPT_SHAPES = "32"


def bound() -> None:
    """For a process that serves for long: call it before there are threads and anything is computed.

    Garbage that Python does not free at once is then looked for seldom: to be called for by :func:`search` as well.
    Does nothing about what the environment says by itself: ``MALLOC_ARENA_MAX``, ``ONEDNN_PRIMITIVE_CACHE_CAPACITY``,
    ``LRU_CACHE_CAPACITY``, which is torch's, or one of ``BLOCKS_SETTINGS``.
    """
    gc.set_threshold(*SEARCHES)
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", COMPILED_SHAPES)
    os.environ.setdefault("LRU_CACHE_CAPACITY", KEPT_SHAPES)
    library = _glibc()
    if library is not None and "MALLOC_ARENA_MAX" not in os.environ:
        library.mallopt(M_ARENA_MAX, HEAPS)
    _blocks.bound()


def loading() -> AbstractContextManager[None]:
    """While something is loaded that stays: what is needed only on the way leaves no holes behind.

    For any thread, and several at once; it holds for all threads then. Does nothing in a process without :func:`bound`.
    """
    return _blocks.loading()


def give_back() -> None:
    """Return what the C library keeps for later: measuring and loading take far more for a moment than serving does.

    Only where it is glibc, whose ``malloc_trim`` that is; takes milliseconds.
    """
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def search() -> None:
    """Free all garbage but what was set apart; takes milliseconds, with a thousand requests under way some dozens."""
    gc.collect()


def set_apart() -> None:
    """Once models are loaded: Python's search for garbage passes over all that lives now, which is most of it.

    Takes a tenth of a second. What is released is freed as ever, but for cycles, which the next call finds.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


class _Blocks:
    """From which size on a block of memory is the system's."""

    def __init__(self) -> None:
        self._lock, self._bound, self._loading = threading.Lock(), False, 0

    def bound(self) -> None:
        if _glibc() is not None and not any(name in os.environ for name in BLOCKS_SETTINGS):
            with self._lock:
                self._bound = True
                self._say()

    @contextmanager
    def loading(self) -> Iterator[None]:
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def _count(self, more: int) -> None:
        with self._lock:
            self._loading += more
            self._say()

    def _say(self) -> None:
        library = _glibc()
        if self._bound and library is not None:
            library.mallopt(M_TRIM_THRESHOLD, KEPT_AT_THE_TOP)
            library.mallopt(M_MMAP_THRESHOLD, APART_LOADING if self._loading else APART)


_blocks = _Blocks()


def _glibc() -> ctypes.CDLL | None:
    return library if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim") else None
