"""Metrics for Prometheus, in a registry of their own: each service counts for itself."""

from __future__ import annotations

from collections.abc import Callable

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

from app.engine import StepReport

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SENTENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)


class Metrics:
    """Counts requests, and is the engine's observer."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, that nobody reads
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        self._requests = Counter("ferry_requests", "Requests answered.", ["route", "status"], registry=registry)
        self._latency = Histogram(
            "ferry_request_seconds", "From request to answer.", ["route"], buckets=SECONDS, registry=registry
        )
        self._queue = Gauge("ferry_queue_tokens", "Source tokens that wait or are under way.", registry=registry)
        self._speed = Gauge(
            "ferry_tokens_per_second", "Source tokens translated a second of work, lately.", registry=registry
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

    def exposition(self) -> tuple[bytes, str]:
        """All metrics in Prometheus's text format, and its media type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def request(self, route: str, status: int, seconds: float) -> None:
        """A request was answered; ``route`` is its path template, so that paths tried at random make no series."""
        self._requests.labels(route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def watch_speed(self, tokens_per_second: Callable[[], float]) -> None:
        """Ask for the engine's speed whenever metrics are read."""
        self._speed.set_function(tokens_per_second)

    def queue_changed(self, tokens: int) -> None:
        self._queue.set(tokens)

    def stepped(self, report: StepReport) -> None:
        self._steps.labels(report.model).observe(report.seconds)
        self._batch.labels(report.model).observe(report.sentences)
        self._padding.labels(report.model).observe(report.padding_share)

    def segment_done(self, model: str, source_tokens: int, target_tokens: int) -> None:
        self._tokens.labels(model, "source").inc(source_tokens)
        self._tokens.labels(model, "target").inc(target_tokens)

    def segment_failed(self, model: str) -> None:
        self._failed.labels(model).inc()

    def segments_cut(self, model: str, segments: int) -> None:
        self._cut.labels(model).inc(segments)

    def cache_looked_up(self, model: str, hits: int, misses: int) -> None:
        self._cache.labels(model, "hit").inc(hits)
        self._cache.labels(model, "miss").inc(misses)

    def segment_shared(self, model: str) -> None:
        self._shared.labels(model).inc()
