"""Several processes that serve one port: started, watched, told of signals, and replaced when they die.

Nothing here imports torch: the processes are spawned, not forked, and each loads the models for itself.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import TYPE_CHECKING, NamedTuple

import structlog
from prometheus_client.multiprocess import mark_process_dead

from app import logs
from app.collecting import importing
from app.explain import explanation
from app.hangup import Hangup
from app.settings import Settings

if TYPE_CHECKING:  # it would bring torch
    from model.precision import Precision

logger = structlog.get_logger("app.workers")
spawn = multiprocessing.get_context("spawn")

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # prometheus-client then counts in files there
PAUSE_SECONDS = 1.0  # before a worker is replaced that died before it served
MOST_FAILURES = 5  # of such workers in a row, then all is given up


class WorkersFailedError(Exception):
    """No worker could be brought to serve; the log says why."""


class Serving(NamedTuple):
    """What a worker tells when it serves."""

    precisions: dict[str, Precision]  # of each model, by its name


def serve(settings: Settings) -> None:
    """Serve with ``settings.workers`` processes until SIGTERM or SIGINT; returns when all have drained.

    The first worker starts alone: what is wrong with the settings is said once, and what it measures holds for all.
    Raises OSError if the port is not free, WorkersFailedError if workers die again and again before they serve.
    """
    logs.configure(settings.log_level)
    with _bound(settings, shared=False):
        pass  # it would be refused if somebody else had the port, where sharing would join in
    with tempfile.TemporaryDirectory(prefix="ferry-metrics-") as folder, _bound(settings, shared=True) as reserved:
        os.environ[METRICS_FOLDER] = folder
        port = reserved.getsockname()[1]
        Supervisor(settings.model_copy(update={"port": port}), folder).run()


class Worker(NamedTuple):
    """A process and what it says: first that it listens to signals (None), then that it serves."""

    process: SpawnProcess
    reports: Connection


class Supervisor:
    """Keeps the workers alive until it is told to end."""

    def __init__(self, settings: Settings, metrics_folder: str) -> None:
        self._settings, self._metrics_folder = settings, metrics_folder
        self._workers: list[Worker] = []
        self._serving: dict[int, Serving] = {}  # by process id
        self._listening: set[int] = set()  # to signals, by process id
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
        """Wait for a signal, a report or a death, and see to it."""
        reports = [worker.reports for worker in self._workers if not worker.reports.closed]
        happened = wait([self._signals, *reports, *(worker.process.sentinel for worker in self._workers)])
        for worker in list(self._workers):
            if worker.reports in happened:
                self._heard(worker)
        if self._signals in happened:
            for number in os.read(self._signals, 64):
                self._signalled(signal.Signals(number))

    def _heard(self, worker: Worker) -> None:
        pid = worker.process.pid
        assert pid is not None
        try:
            report: Serving | None = worker.reports.recv()
        except EOFError:  # it has ended, or is about to
            worker.reports.close()
            return
        self._listening.add(pid)
        if self._ending:
            os.kill(pid, signal.SIGTERM)
        if report is None:
            return
        self._serving[pid] = report
        self._failures = 0
        if not self._precisions:
            self._precisions = report.precisions
            logger.info(f"running on http://{_shown(self._settings.host)}:{self._settings.port}")
        while len(self._workers) < self._settings.workers and not self._ending:
            self._start()

    def _signalled(self, number: signal.Signals) -> None:
        if number is signal.SIGHUP:
            self._tell(signal.SIGHUP)
        else:
            # A second Ctrl-C ends the workers at once, as it does without a supervisor.
            self._tell(signal.SIGINT if self._ending and number is signal.SIGINT else signal.SIGTERM)
            self._ending = True

    def _tell(self, number: signal.Signals) -> None:
        for worker in self._workers:
            pid = worker.process.pid
            # One that does not listen yet would die of it; it has not read anything yet either.
            if pid in self._listening and worker.process.is_alive():
                os.kill(pid, number)

    def _buried(self, worker: Worker) -> None:
        """Clear up after a worker that has ended, and replace it unless all are to end."""
        self._workers.remove(worker)
        worker.process.join()
        pid = worker.process.pid
        assert pid is not None
        mark_process_dead(pid, self._metrics_folder)  # type: ignore[no-untyped-call]
        served = self._serving.pop(pid, None) is not None
        self._listening.discard(pid)
        if self._ending:
            return
        logger.error("a worker died", worker=pid, status=worker.process.exitcode, served=served)
        if not served:
            self._failures += 1
            if not self._precisions or self._failures >= MOST_FAILURES:
                self._ending = True
                self._tell(signal.SIGTERM)
                raise WorkersFailedError("the workers do not come to serve; the lines above say why")
            time.sleep(PAUSE_SECONDS)
        self._start()

    def _start(self) -> None:
        reports, reporting = spawn.Pipe(duplex=False)
        arguments = (self._settings, reporting, self._precisions)
        process = spawn.Process(target=work, args=arguments, name="ferry-worker")
        process.start()
        reporting.close()  # ours; so that the end of the worker's is the end of all
        self._workers.append(Worker(process, reports))


def work(settings: Settings, reporting: Connection, precisions: Mapping[str, Precision]) -> None:
    """A worker: one process that serves the port, from its start to its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; until it serves, SIGTERM follows
    hangup = Hangup()
    threading.Thread(target=_follow_supervisor, daemon=True).start()
    reporting.send(None)
    try:
        _serve_with(settings, hangup, reporting, precisions)
    except Exception as error:
        text = explanation(error)
        if text is None:
            raise
        print(f"ferry: {text}", file=sys.stderr)
        sys.exit(1)


def _serve_with(settings: Settings, hangup: Hangup, reporting: Connection, precisions: Mapping[str, Precision]) -> None:
    with importing():
        from app import server
        from app.service import Service

    def tell(service: Service) -> None:
        service.tell_others = _tell_supervisor
        reporting.send(Serving({model.pair.model: model.facts.precision for model in service.catalogue.models}))

    with _bound(settings, shared=True) as port:
        server.serve(settings, hangup, sockets=[port], precisions=precisions, on_started=tell)


def _tell_supervisor() -> None:
    """Ask it to have all workers read the checkpoints anew."""
    supervisor = multiprocessing.parent_process()
    if supervisor is not None and supervisor.pid == os.getppid():  # else it is gone, and its id somebody else's
        os.kill(os.getppid(), signal.SIGHUP)


def _follow_supervisor() -> None:
    """End as by SIGTERM when the supervisor is gone, however it went."""
    supervisor = multiprocessing.parent_process()
    assert supervisor is not None
    supervisor.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _bound(settings: Settings, *, shared: bool) -> socket.socket:
    """A socket with the address of the settings, not yet listening. ``shared`` ones may stand beside each other."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            # Each worker listens for itself and the kernel deals connections out; one socket for all would give most
            # of a burst to whoever wakes first.
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise OSError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from error
    return bound


def _nothing(number: int, frame: FrameType | None) -> None:
    """A handler: the signal neither ends the process nor is lost."""


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
