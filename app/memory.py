"""Memory that is free within the process, given back to the system."""

from __future__ import annotations

import ctypes
import sys


def give_back() -> None:
    """Return what the C library keeps for later: measuring and loading take far more for a moment than serving does.

    Only where it is glibc, whose ``malloc_trim`` that is; takes milliseconds.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)
