"""The engine's threads, from the warm-up to the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog
import torch

from app.engine.budget import Budget
from app.engine.calibration import UNMEASURED_SENTENCES, Calibration, calibrate, warm_up
from app.engine.lane import Common, Lane
from app.engine.models import EngineModel, Models
from app.engine.watchdog import Watchdog
from app.memory import give_back
from model.search import SearchOptions

log = structlog.get_logger(__name__)


class Lanes:
    """Warms up, measures, then runs as many lanes as that, or ``lanes``, tells; a watchdog looks after them."""

    def __init__(
        self,
        common: Common,
        models: Models,
        *,
        threads: int,
        lanes: int | None,
        batch_tokens: int,
        batch_rows: int | None,
        stuck_seconds: float,
        on_stuck: Callable[[], None],
    ) -> None:
        """``threads`` are shared by the lanes; see :class:`app.engine.engine.Engine`.

        Raises ValueError for more lanes than threads.
        """
        if lanes is not None and lanes > threads:
            raise ValueError(f"there are {lanes} lanes and {threads} threads; give each lane at least one thread")
        self._common, self._models = common, models
        self._threads, self._wanted = threads, lanes
        self._batch_tokens, self._batch_rows = batch_tokens, batch_rows
        self.each: list[Lane] = []  # once it is known how many
        self.started = False
        self.settled = threading.Event()  # warmed up, or failed to
        self.failure: str | None = None
        self._heartbeat = 0.0  # before there are lanes
        self._thread = threading.Thread(target=self._run, name="ferry-engine", daemon=True)
        self._watchdog = Watchdog(lambda: self._last_heartbeat, stuck_seconds, on_stuck)

    @property
    def silence(self) -> float:
        """Seconds since the lane that has not moved for longest has moved."""
        return time.monotonic() - self._last_heartbeat

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def tokens_per_second(self) -> float:
        """Source tokens translated for each second of work, lately."""
        return sum(lane.speed.lately.per_second for lane in self.each)

    @property
    def capacity(self) -> float:
        """Source tokens a second that they can translate; 0 if not known."""
        return sum(lane.speed.capacity for lane in self.each)

    def start(self) -> None:
        """Returns at once."""
        self.started = True
        self._beat()
        self._thread.start()

    def end(self, drain_seconds: float, patience_seconds: float) -> None:
        """End when nothing is left, after ``drain_seconds`` at the latest; then wait for the steps under way."""
        self._common.ending.set()
        timer = threading.Timer(drain_seconds, self._common.ended.set)
        timer.start()
        if self.started:
            self._thread.join(drain_seconds + patience_seconds)
        timer.cancel()
        self._common.ended.set()
        self._watchdog.stop()

    @property
    def _last_heartbeat(self) -> float:
        return min((lane.heartbeat for lane in self.each), default=self._heartbeat)

    def _run(self) -> None:
        """The first thread: warms up, measures, and is the first lane."""
        self._watchdog.start()
        torch.set_num_threads(1)  # to warm up; see Loader
        try:
            self.each = self._open(self._prepare())
        except Exception as error:
            log.exception("warm-up failed")
            self.failure = f"the models could not be warmed up: {error!r}"
            self._watchdog.stop()
            return
        finally:
            self.settled.set()
        others = [threading.Thread(target=lane.run, name="ferry-lane", daemon=True) for lane in self.each[1:]]
        for thread in others:
            thread.start()
        self.each[0].run()
        for thread in others:
            thread.join()

    def _prepare(self) -> Calibration:
        """Translate once with every model, and measure with the largest."""
        rows = self._batch_rows or UNMEASURED_SENTENCES * SearchOptions().beam_size
        unmeasured = Calibration(self._wanted or 1, rows, tokens_per_second=0.0)
        models = [model.loaded for model in self._models.current()]
        for loaded in models:
            if self._common.ending.is_set():
                return unmeasured
            warm_up(loaded)
            self._beat()
        if not models or self._common.ending.is_set():
            return unmeasured
        measured = calibrate(max(models, key=_weights), self._threads, self._wanted, self._batch_rows, self._beat)
        give_back()  # measuring takes more for a moment than serving does
        log.info("engine ready", **measured._asdict(), threads=self._threads)
        return measured

    def _open(self, plan: Calibration) -> list[Lane]:
        budget = Budget(self._batch_tokens, plan.rows).share(plan.lanes)
        threads, speed = max(1, self._threads // plan.lanes), plan.tokens_per_second / plan.lanes
        lanes = [Lane(self._common, budget, threads, speed) for _ in range(plan.lanes)]
        for lane in lanes:
            lane.beside = lanes
        return lanes

    def _beat(self) -> None:
        self._heartbeat = time.monotonic()


def _weights(loaded: EngineModel) -> int:
    """About how many weights take part in a step."""
    config = loaded.model.config
    return config.target_vocabulary * config.embedding + 8 * config.hidden**2 * config.decoder_layers
