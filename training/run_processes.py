"""Commands of ferry-train as processes of their own, so that memory, generators and signals of one run are its own.

A process is asked to stop by SIGTERM, which makes a fit save its state. A folder in use is locked for as long as the
process that works in it lives, even if the one that started it was killed. A command that a person types locks its
run's folder as well, so that two that write the same files cannot be at work at once.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event
from types import FrameType
from typing import TextIO, TypeAlias

LOG_FILE = "log.txt"
_LOCK_FILE = ".lock"  # holds the number of the process that has locked it last
_GIVEN_LOCK = "FERRY_TRAIN_LOCK"  # in a process's environment: the descriptor of the lock that it was started with
_STOPPED = 130  # exit status of a fit that a signal ended
_POLL_SECONDS = 0.5
_PATIENCE_SECONDS = 300.0  # a validation may have to end before a process heeds the signal

KeepGoing: TypeAlias = Callable[[], bool]


class ProcessError(Exception):
    """A command failed; the message is its own last word, and where the rest stands."""


class FolderInUseError(Exception):
    """Another process works in the folder; the message says which, and what to do."""


class Stopped(Exception):
    """``keep_going`` said no: what was begun can be taken up again."""


def run_command(arguments: Sequence[str | Path], folder: Path, lock: int, keep_going: KeepGoing) -> None:
    """Runs ``ferry-train ARGUMENTS``, its output appended to ``log.txt`` in ``folder``; ``lock`` is exclusive()'s.

    ``keep_going`` is asked twice a second. Raises Stopped once it has said no and the process has ended, and
    ProcessError where the process failed.
    """
    log = folder / LOG_FILE
    with log.open("ab") as output:
        began = output.tell()
        # A session of its own: Ctrl-C at the terminal reaches the process through us, once.
        process = subprocess.Popen(
            [sys.executable, "-m", "training.cli", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(lock,),
            env={**os.environ, _GIVEN_LOCK: str(lock)},
        )
        try:
            stopped = not _wait(process, keep_going)
        except BaseException:
            _terminate(process)
            raise
    if process.returncode == 0:
        return
    if stopped:
        raise Stopped
    raise ProcessError(f"{_last_word(log, began, process.returncode)} (more in {log})")


@contextmanager
def exclusive(folder: Path, keep_going: KeepGoing, message: Callable[[str], None]) -> Iterator[int]:
    """Holds the lock of ``folder``, which is made if need be; waits while another process has it.

    Gives the lock's file descriptor, for the processes that work in the folder. Raises Stopped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    told = False
    with (folder / _LOCK_FILE).open("a+") as file:
        while not _take_lock(file):
            if not keep_going():
                raise Stopped
            if not told:
                message(f"{folder}: waiting for the process that works there")
                told = True
            time.sleep(_POLL_SECONDS)
        yield file.fileno()


@contextmanager
def working_in(folder: Path, message: Callable[[str], None]) -> Iterator[None]:
    """Holds the lock of ``folder``, which is made if need be; the lock that :func:`run_command` gave it will do.

    Where the file system has no locks, ``message`` is told so and nothing is held. Raises FolderInUseError at once
    where another process has it.
    """
    if _is_given(folder):
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as opened:
        try:
            file = opened.enter_context((folder / _LOCK_FILE).open("a+"))
            taken = _take_lock(file)
        except OSError as error:
            message(f"{folder} cannot be locked ({error.strerror}): see to it that no other process trains there")
            taken = True
        if not taken:
            file.seek(0)
            who = file.read().strip()
            raise FolderInUseError(
                f"{folder}: another ferry-train{f' (process {who})' if who else ''} is at work there; "
                "wait for its end or stop it, or name another run folder with --set folder=..."
            )
        yield


def in_use(folder: Path) -> bool:
    """Whether a process works in ``folder`` under :func:`exclusive` or :func:`working_in`."""
    if not (folder / _LOCK_FILE).exists():
        return False
    with (folder / _LOCK_FILE).open("a+") as file:
        return not _take_lock(file)


@contextmanager
def stop_signals() -> Iterator[Event]:
    """An event that SIGINT and SIGTERM set, in place of what they did."""
    stop = Event()

    def handler(number: int, frame: FrameType | None) -> None:
        stop.set()

    previous = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, former in previous.items():
            signal.signal(number, former)


def _wait(process: subprocess.Popen[bytes], keep_going: KeepGoing) -> bool:
    """Waits for the end; False if the process was told to stop before."""
    while True:
        try:
            process.wait(_POLL_SECONDS)
            return True
        except subprocess.TimeoutExpired:
            if not keep_going():
                _terminate(process)
                return False


def _terminate(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _take_lock(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    os.ftruncate(file.fileno(), 0)
    os.write(file.fileno(), f"{os.getpid()}\n".encode())
    return True


def _is_given(folder: Path) -> bool:
    """Whether this process was started with the lock of ``folder``: a descriptor of that very file."""
    try:
        given, wanted = os.fstat(int(os.environ[_GIVEN_LOCK])), (folder / _LOCK_FILE).stat()
    except (KeyError, ValueError, OSError):
        return False
    return os.path.samestat(given, wanted)


def _last_word(log: Path, began: int, status: int) -> str:
    """The sentence with which a failed command ended."""
    if status == _STOPPED:
        return "a signal from elsewhere ended it; its state is saved"
    with log.open("rb") as file:
        file.seek(began, os.SEEK_SET)
        lines = [line.strip() for line in file.read().decode("utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    killed = f"ended by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    return (errors or ([killed] if status < 0 else lines[-1:]) or [killed])[-1]
