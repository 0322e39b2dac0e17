"""Work on many tasks in processes of their own: results in the order of the tasks, a bounded number in flight.

A worker is a plain interpreter that runs ``serve`` and loads what its job needs, nothing else. The processes of the
standard library's pools import the main program again, here torch with it: a second and 200 MB each.
"""

import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import chain, islice
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Generic, NamedTuple, Self, TypeVar

_ALONE = 4  # tasks done here before workers are started: what starts in half a second must be worth it
_IN_FLIGHT = 3  # tasks for each worker that are under way or done and waiting for an earlier one

Task = TypeVar("Task")
Result = TypeVar("Result")
_Process = subprocess.Popen[bytes]


class WorkerError(Exception):
    """A worker process ended before its task was done."""


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def in_order(
    job: Callable[[Task], Result], tasks: Iterable[Task], workers: int
) -> Generator[tuple[Task, Result], None, None]:
    """Each task with its result, in the order of the tasks, whatever the number of workers.

    ``job``, tasks and results are pickled. The first tasks, and all with one worker, are done in this process. What
    ``job`` or ``tasks`` raises is raised here, and what was earlier in the order is raised first; WorkerError where a
    worker was killed. Close the iterator to end the workers early.
    """
    remaining = iter(tasks)
    for task in islice(remaining, _ALONE if workers > 1 else None):
        yield task, job(task)
    for first in islice(remaining, 1):
        with _Crew(job, workers) as crew:
            yield from crew.in_order(chain([first], remaining))


class _Crew(Generic[Task, Result]):
    """Worker processes, each with a thread here that waits for it."""

    def __init__(self, job: Callable[[Task], Result], workers: int) -> None:
        self._job, self._workers = job, workers
        self._processes: list[_Process] = []
        self._idle: SimpleQueue[_Process] = SimpleQueue()
        self._threads = ThreadPoolExecutor(workers)

    def __enter__(self) -> Self:
        try:
            for _ in range(self._workers):
                self._processes.append(_start())
                self._threads.submit(self._enlist, self._processes[-1])
        except OSError as error:
            self.__exit__(OSError, error, None)
            raise WorkerError(f"no worker process can be started: {error}; try fewer of them (data.workers)") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            for process in self._processes:
                process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.communicate()

    def in_order(self, tasks: Iterator[Task]) -> Iterator[tuple[Task, Result]]:
        pending: deque[tuple[Task, Future[Result]]] = deque()
        failure: Exception | None = None
        more = True
        while more or pending:
            while more and len(pending) < _IN_FLIGHT * self._workers:
                try:
                    task = next(tasks)
                except StopIteration:
                    more = False
                except Exception as error:
                    more, failure = False, error
                else:
                    pending.append((task, self._threads.submit(self._do, task)))
            if pending:
                task, future = pending.popleft()
                yield task, future.result()
        if failure is not None:
            raise failure

    def _enlist(self, process: _Process) -> None:
        try:
            _send(process, self._job)
        finally:  # a dead one as well: the task that draws it tells
            self._idle.put(process)

    def _do(self, task: Task) -> Result:
        process = self._idle.get()
        try:
            _send(process, task)
            outcome: Result | _Failure = _receive(process)
        finally:
            self._idle.put(process)
        if isinstance(outcome, _Failure):
            raise outcome.error
        return outcome


class _Failure(NamedTuple):
    error: Exception


def _start() -> _Process:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),
        "OPENBLAS_NUM_THREADS": "1",  # the processes already use every core
    }
    return subprocess.Popen(
        [sys.executable, "-P", "-c", f"from {__name__} import serve; serve()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        process_group=0,  # Ctrl-C reaches only the main process, which ends its workers
        env=environment,
    )


def _send(process: _Process, message: object) -> None:
    assert process.stdin is not None
    try:
        pickle.dump(message, process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
        process.stdin.flush()
    except BrokenPipeError as error:
        raise _ended(process) from error


def _receive(process: _Process) -> Any:
    assert process.stdout is not None
    try:
        return pickle.load(process.stdout)
    except (EOFError, pickle.UnpicklingError) as error:
        raise _ended(process) from error


def _ended(process: _Process) -> WorkerError:
    status = process.wait()
    cause = f"signal {-status}, perhaps for want of memory" if status < 0 else f"status {status}"
    return WorkerError(f"a worker process ended with {cause}; try fewer of them (data.workers)")


def serve() -> None:
    """A worker's life: a job, then tasks until the other end is closed."""
    results, tasks = os.fdopen(os.dup(1), "wb"), sys.stdin.buffer
    os.dup2(2, 1)  # what a library prints must not stand among the results
    with suppress(EOFError, BrokenPipeError), results:
        job: Callable[[object], object] = pickle.load(tasks)
        while True:
            task = pickle.load(tasks)
            outcome: object
            try:
                outcome = job(task)
            except Exception as error:
                outcome = _Failure(error)
            pickle.dump(outcome, results, protocol=pickle.HIGHEST_PROTOCOL)
            results.flush()
