"""Metrics for Prometheus, in a registry of their own; where there are several workers, whoever is asked adds up."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from app.engine import StepReport
from app.served import ServedModel
from app.workers import METRICS_FOLDER

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SENTENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)


class Metrics:
    """Counts requests, and is the engine's observer."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, that nobody reads
        registry = self._registry = CollectorRegistry()
        if METRICS_FOLDER in os.environ:
            self._collected = CollectorRegistry()
            MultiProcessCollector(self._collected)  # type: ignore[no-untyped-call]
        else:
            self._collected = registry
            ProcessCollector(registry=registry)
            GCCollector(registry=registry)
        self._known_models: set[tuple[str, str, str]] = set()
        self._requests = Counter("ferry_requests", "Requests answered.", ["route", "status"], registry=registry)
        self._latency = Histogram(
            "ferry_request_seconds", "From request to answer.", ["route"], buckets=SECONDS, registry=registry
        )
        self._queue = self._sum("ferry_queue_tokens", "Source tokens that wait or are under way.")
        self._speed = self._sum("ferry_tokens_per_second", "Source tokens translated a second of work, lately.")
        self._workers = self._sum("ferry_workers", "Processes that serve.")
        self._memory = self._sum("ferry_resident_memory_bytes", "Resident memory of the processes that serve.")
        self._models = self._sum(
            "ferry_models_loaded", "Processes that hold the model in memory.", ["model", "version", "precision"]
        )
        self._reloads = Counter(
            "ferry_reloads", "Times that checkpoints were read anew.", ["result"], registry=registry
        )
        self._steps = Histogram(
            "ferry_step_seconds", "Decoding steps of a batch.", ["model"], buckets=SECONDS, registry=registry
        )
        self._batch = Histogram(
            "ferry_batch_sentences", "Sentences in a step's batch.", ["model"], buckets=SENTENCES, registry=registry
        )
        self._padding = Histogram(
            "ferry_padding_share", "Share of padding in a step's batch.", ["model"], buckets=SHARES, registry=registry
        )
        self._tokens = Counter(
            "ferry_tokens",
            "Tokens of translated segments, end-of-sentence included.",
            ["model", "side"],
            registry=registry,
        )
        self._failed = Counter("ferry_segments_failed", "Segments the model failed on.", ["model"], registry=registry)
        self._cut = Counter("ferry_segments_cut", "Segments cut short by a deadline.", ["model"], registry=registry)
        self._cache = Counter(
            "ferry_cache_lookups", "Segments looked for in the cache.", ["model", "outcome"], registry=registry
        )
        self._shared = Counter(
            "ferry_segments_shared", "Segments that another request had translated.", ["model"], registry=registry
        )

    def _sum(self, name: str, description: str, labels: Sequence[str] = ()) -> Gauge:
        """A gauge that adds up over the workers that live."""
        return Gauge(name, description, labels, registry=self._registry, multiprocess_mode="livesum")

    def exposition(self) -> tuple[bytes, str]:
        """All metrics in Prometheus's text format, of all workers together, and its media type."""
        return generate_latest(self._collected), CONTENT_TYPE_LATEST

    def request(self, route: str, status: int, seconds: float) -> None:
        """A request was answered; ``route`` is its path template, so that paths tried at random make no series."""
        self._requests.labels(route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def sample(self, tokens_per_second: float, models: Sequence[ServedModel]) -> None:
        """How things stand; to be told every now and then."""
        self._workers.set(1)
        self._speed.set(tokens_per_second)
        self._memory.set(resident_bytes())
        present = {(name, version, precision): loaded for name, version, precision, loaded in map(_state, models)}
        for labels in self._known_models | present.keys():
            self._models.labels(*labels).set(present.get(labels, False))
        self._known_models |= present.keys()

    def reloaded(self, failed: bool) -> None:
        """The checkpoint folders were read anew."""
        self._reloads.labels("failed" if failed else "done").inc()

    def queue_changed(self, tokens: int) -> None:
        self._queue.set(tokens)

    def stepped(self, report: StepReport) -> None:
        self._steps.labels(_plain(report.model)).observe(report.seconds)
        self._batch.labels(_plain(report.model)).observe(report.sentences)
        self._padding.labels(_plain(report.model)).observe(report.padding_share)

    def segment_done(self, model: str, source_tokens: int, target_tokens: int) -> None:
        self._tokens.labels(_plain(model), "source").inc(source_tokens)
        self._tokens.labels(_plain(model), "target").inc(target_tokens)

    def segment_failed(self, model: str) -> None:
        self._failed.labels(_plain(model)).inc()

    def segments_cut(self, model: str, segments: int) -> None:
        self._cut.labels(_plain(model)).inc(segments)

    def cache_looked_up(self, model: str, hits: int, misses: int) -> None:
        self._cache.labels(_plain(model), "hit").inc(hits)
        self._cache.labels(_plain(model), "miss").inc(misses)

    def segment_shared(self, model: str) -> None:
        self._shared.labels(_plain(model)).inc()


def resident_bytes() -> int:
    """Memory of this process that is in use now; 0 where there is no /proc."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _state(model: ServedModel) -> tuple[str, str, str, bool]:
    config = model.facts.config
    return config.name, config.version, model.facts.precision, model.loaded


def _plain(model: str) -> str:
    """A model's own name, without the number by which the engine tells one loading from the next."""
    return model.partition("#")[0]
