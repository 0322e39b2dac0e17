"""Python's search for garbage, kept out of the way of the start."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """For the imports of what computes: they make a million objects that all stay.

    Looking for garbage among them takes a seventh of the start, and would later take time from every full search.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
