"""Memory that the libraries below would keep: bounded before they begin, and given back when it is free."""

from __future__ import annotations

import ctypes
import gc
import os
import sys

# Heaps of the C library, which gives every thread one of its own: what was freed in one is of no use to the others.
HEAPS = 2
M_ARENA_MAX = -8  # of mallopt(3)
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
    Does nothing about what the environment says by itself: ``MALLOC_ARENA_MAX``, ``ONEDNN_PRIMITIVE_CACHE_CAPACITY`` or
    ``LRU_CACHE_CAPACITY``, which is torch's.
    """
    gc.set_threshold(*SEARCHES)
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", COMPILED_SHAPES)
    os.environ.setdefault("LRU_CACHE_CAPACITY", KEPT_SHAPES)
    library = _glibc()
    if library is not None and "MALLOC_ARENA_MAX" not in os.environ:
        library.mallopt(M_ARENA_MAX, HEAPS)


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


def _glibc() -> ctypes.CDLL | None:
    return library if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim") else None
