"""What the tests' worker processes do; they load this file and what it imports, so it imports little."""

import os
import signal
import sys
import time


def slow_first(task: int) -> tuple[int, int]:
    """The task and the process that did it; the first task takes longer than the others."""
    time.sleep(0.3 if task == 0 else 0.0)
    return task, os.getpid()


def loaded_modules(task: int) -> list[str]:
    """What stands in memory of a process that can prepare text."""
    import training.encoding
    import training.overlap  # noqa: F401

    return list(sys.modules)


def refuse_odd(task: int) -> int:
    if task % 2:
        raise LookupError(f"{task} is odd")
    return task


def die(task: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def chatter(task: int) -> int:
    """Prints, as libraries do."""
    print("hello", flush=True)
    return task
