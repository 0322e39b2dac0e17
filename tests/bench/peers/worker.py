"""The other side of a peer: a process in the peer's own environment that translates what it is sent and times itself.

Imports nothing but the standard library, so that every environment can run it. A line of JSON comes in for each
measurement, and one goes out.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

Translate = Callable[[list[list[int]], int], int]  # a batch of ids and the length of its outputs, to pieces put out


def serve(translate: Translate, about: str) -> None:
    """Answer until standard input ends, beginning with ``about``, the peer's version.

    A question is a list of ``[batch, length]``; its answer has the seconds of each and all the pieces that came out.
    """
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a peer prints must not stand among the answers
    print(json.dumps({"about": about}), file=answers)
    for line in sys.stdin:
        seconds, pieces = [], 0
        for batch, length in json.loads(line):
            began = time.perf_counter()
            pieces += translate(batch, length)
            seconds.append(time.perf_counter() - began)
        print(json.dumps({"seconds": seconds, "pieces": pieces}), file=answers)
