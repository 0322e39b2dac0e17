"""What a benchmark found, as one object that JSON can hold."""

from __future__ import annotations

from app.bench.decoding import Latency, Throughput
from app.bench.machine import Machine
from app.bench.service import ServiceFigures
from model.config import Frozen


class Report(Frozen):
    """Everything that was measured in one run. Throughputs are of whole sentences, latencies of one sentence alone."""

    ferry_version: str
    machine: Machine
    model: str
    shape: str
    text: str
    beam_size: int
    precision: str
    precision_ms: dict[str, float]  # of a decoder step in each precision that was tried, where one was chosen
    shortlist: bool
    sentences_per_second: float  # of the best batch size and number of lanes
    batch_size: int  # the best
    lanes: int  # the best for it
    floor_sentences_per_second: float  # for that batch size: if there were nothing but the matrix products
    latency_ms_mean: float  # of one sentence at a time, over sentences of all lengths
    throughput: tuple[Throughput, ...]
    latency: Latency
    latency_by_length: tuple[Latency, ...]
    service: ServiceFigures | None  # None if no load was asked for
