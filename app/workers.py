"""Several processes that serve one port: started, watched, told of signals, and replaced when they die.

Nothing here imports torch: the processes are spawned, not forked, and each loads the models for itself.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import time
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import TYPE_CHECKING, NamedTuple

import structlog
from prometheus_client.multiprocess import mark_process_dead

from app import logs
from app.addresses import bound, shown
from app.messages import Listening, OthersReloaded, Reload, Reloaded, ReloadWanted, Rounds, Serving
from app.settings import Settings
from app.worker import work

if TYPE_CHECKING:  # it would bring torch
    from model.precision import Precision

logger = structlog.get_logger("app.workers")
spawn = multiprocessing.get_context("spawn")

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # prometheus-client then counts in files there
PAUSE_SECONDS = 1.0  # before a worker is replaced that died before it served
MOST_FAILURES = 5  # of such workers in a row, then all is given up


class WorkersFailedError(Exception):
    """No worker could be brought to serve; the log says why."""


def serve(settings: Settings) -> None:
    """Serve with ``settings.workers`` processes until SIGTERM or SIGINT; returns when all have drained.

    The first worker starts alone: what is wrong with the settings is said once, and what it measures holds for all.
    Raises OSError if the port is not free, WorkersFailedError if workers die again and again before they serve.
    """
    logs.configure(settings.log_level)
    with bound(settings, shared=False):
        pass  # it would be refused if somebody else had the port, where sharing would join in
    with tempfile.TemporaryDirectory(prefix="ferry-metrics-") as folder, bound(settings, shared=True) as reserved:
        os.environ[METRICS_FOLDER] = folder
        port = reserved.getsockname()[1]
        Supervisor(settings.model_copy(update={"port": port}), folder).run()


class Worker(NamedTuple):
    """A process and the pipe to it."""

    process: SpawnProcess
    pipe: Connection

    @property
    def pid(self) -> int:
        """Its process id; it has been started."""
        assert self.process.pid is not None
        return self.process.pid

    def tell(self, message: Reload | OthersReloaded) -> None:
        """Send ``message``, unless it has ended: that is seen to where it is buried."""
        with suppress(OSError):
            self.pipe.send(message)


class Supervisor:
    """Keeps the workers alive until it is told to end."""

    def __init__(self, settings: Settings, metrics_folder: str) -> None:
        self._settings, self._metrics_folder = settings, metrics_folder
        self._workers: list[Worker] = []
        self._serving: set[int] = set()  # by process id
        self._listening: set[int] = set()  # to signals, by process id
        self._rounds = Rounds()
        self._precisions: dict[str, Precision] = {}
        self._failures = 0
        self._ending = False
        self._signals, self._wake = os.pipe()

    def run(self) -> None:
        """Until SIGTERM or SIGINT. Raises WorkersFailedError."""
        os.set_blocking(self._wake, False)
        signal.set_wakeup_fd(self._wake)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, _nothing)  # the number comes through the pipe
        self._start()
        while self._workers:
            self._listen()
            for worker in list(self._workers):
                if not worker.process.is_alive():
                    self._buried(worker)

    def _listen(self) -> None:
        """Wait for a signal, a message or a death, and see to it."""
        pipes = [worker.pipe for worker in self._workers if not worker.pipe.closed]
        happened = wait([self._signals, *pipes, *(worker.process.sentinel for worker in self._workers)])
        for worker in list(self._workers):
            if worker.pipe in happened:
                self._heard(worker)
        if self._signals in happened:
            for number in os.read(self._signals, 64):
                self._signalled(signal.Signals(number))

    def _heard(self, worker: Worker) -> None:
        try:
            message: Listening | Serving | ReloadWanted | Reloaded = worker.pipe.recv()
        except (EOFError, OSError):  # it has ended, or is about to
            worker.pipe.close()
            return
        if isinstance(message, Listening):
            self._listening.add(worker.pid)
            if self._ending:
                os.kill(worker.pid, signal.SIGTERM)
        elif isinstance(message, Serving):
            self._serves(worker, message)
        elif isinstance(message, ReloadWanted):
            # One that does not listen yet has not read anything either.
            others = [other for other in self._workers if other is not worker and other.pid in self._listening]
            number = self._rounds.begin(worker.pid, message.ticket, [other.pid for other in others])
            for other in others:
                other.tell(Reload(number))
            self._answer()
        else:
            self._rounds.reported(worker.pid, message)
            self._answer()

    def _serves(self, worker: Worker, message: Serving) -> None:
        self._serving.add(worker.pid)
        self._failures = 0
        if not self._precisions:
            self._precisions = message.precisions
            logger.info(f"running on http://{shown(self._settings.host)}:{self._settings.port}")
        while len(self._workers) < self._settings.workers and not self._ending:
            self._start()

    def _answer(self) -> None:
        """Tell those who wanted a reload of all what became of it, where that is known."""
        workers = {worker.pid: worker for worker in self._workers}
        for asker, answer in self._rounds.finished():
            workers[asker].tell(answer)

    def _signalled(self, number: signal.Signals) -> None:
        if number is signal.SIGHUP:
            self._tell(signal.SIGHUP)
        else:
            # A second Ctrl-C ends the workers at once, as it does without a supervisor.
            self._tell(signal.SIGINT if self._ending and number is signal.SIGINT else signal.SIGTERM)
            self._ending = True

    def _tell(self, number: signal.Signals) -> None:
        for worker in self._workers:
            # One that does not listen yet would die of it; it has not read anything yet either.
            if worker.pid in self._listening and worker.process.is_alive():
                os.kill(worker.pid, number)

    def _buried(self, worker: Worker) -> None:
        """Clear up after a worker that has ended, and replace it unless all are to end."""
        self._workers.remove(worker)
        worker.process.join()
        mark_process_dead(worker.pid, self._metrics_folder)  # type: ignore[no-untyped-call]
        served = worker.pid in self._serving
        self._serving.discard(worker.pid)
        self._listening.discard(worker.pid)
        self._rounds.lost(worker.pid)
        self._answer()
        if self._ending:
            return
        logger.error("a worker died", worker=worker.pid, status=worker.process.exitcode, served=served)
        if not served:
            self._failures += 1
            if not self._precisions or self._failures >= MOST_FAILURES:
                self._ending = True
                self._tell(signal.SIGTERM)
                raise WorkersFailedError("the workers do not come to serve; the lines above say why")
            time.sleep(PAUSE_SECONDS)
        self._start()

    def _start(self) -> None:
        pipe, theirs = spawn.Pipe()
        arguments = (self._settings, theirs, self._precisions)
        process = spawn.Process(target=work, args=arguments, name="ferry-worker")
        process.start()
        theirs.close()  # so that the end of the worker's is the end of all
        self._workers.append(Worker(process, pipe))


def _nothing(number: int, frame: FrameType | None) -> None:
    """A handler: the signal neither ends the process nor is lost."""
