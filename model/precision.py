"""Precision of inference: a trained model with its matrix products swapped for packed ones.

``prepare`` makes a model that is used through ``encode``, ``start``, ``step`` and ``attend`` as before; what it was
made from stays as it is. Precision is that of the products with weights. Everything between them, and the state that
passes from step to step, is float32.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple, TypeAlias, TypeVar, get_args

import torch
from torch import Tensor, nn

from model.attention import MultiHeadAttention, NativeMultiHeadAttention
from model.cells.fused import LSTMLayer
from model.cells.layer import CellState, RecurrentLayer
from model.cells.packed import JoinedLayer, OneDnnLSTMLayer
from model.decoder import Memory, State
from model.encoder import Bridge
from model.int8 import fastest_kernel, one_thread
from model.native import operators
from model.products import Bfloat16Product, Float32Product, Int8Product, Pack, can_pack, has_bfloat16
from model.seq2seq import Output, Seq2Seq
from model.whole_step import whole_step

Precision: TypeAlias = Literal["float32", "bfloat16", "int8"]

ROWS = (5, 160)  # of a measured step: one sentence and thirty-two, with a beam of 5
POSITIONS = 12  # of their sources
REPEATS = 3

Swapped = TypeVar("Swapped", bound=nn.Module)


class PrecisionError(ValueError):
    """A precision that cannot be had; the message says which ones can."""


class Prepared(NamedTuple):
    """A model ready for inference."""

    model: Seq2Seq
    precision: Precision
    measured: dict[str, float]  # seconds of a decoder step, geometric mean over ROWS; empty unless chosen by "auto"


def supported(device: torch.device | str = "cpu") -> tuple[Precision, ...]:
    """The precisions that ``device`` is fast in: all that "auto" tries.

    On a CPU bfloat16 can be prepared even where this leaves it out; it is slow there.
    """
    device = torch.device(device)
    bfloat16: tuple[Precision, ...] = ("bfloat16",) if has_bfloat16(device) else ()
    int8: tuple[Precision, ...] = ("int8",) if device.type == "cpu" else ()
    return ("float32", *bfloat16, *int8)


def prepare(model: Seq2Seq, precision: Precision | Literal["auto"]) -> Prepared:
    """``model`` for inference in ``precision``; "auto" measures those supported and takes the fastest.

    What comes back neither learns nor is saved. Raises PrecisionError for an unknown precision, for int8 elsewhere
    than on a CPU, and for a model that has been prepared before.
    """
    if isinstance(model, PackedSeq2Seq):
        raise PrecisionError("the model has been prepared before; prepare the one that was loaded")
    if precision != "auto":
        _check(precision, model.device)
        return Prepared(PackedSeq2Seq(model, precision), precision, {})
    measured: dict[str, float] = {}
    best: Prepared | None = None
    for candidate in supported(model.device):
        packed = PackedSeq2Seq(model, candidate)
        measured[candidate] = step_seconds(packed)
        if best is None or measured[candidate] < measured[best.precision]:
            best = Prepared(packed, candidate, measured)
    assert best is not None, "float32 is supported everywhere"
    return best


class PackedSeq2Seq(Seq2Seq):
    """A model whose weights are packed for inference.

    Encoder and bridge are float32 in every precision: they run once a sentence, and all that follows hangs on them.
    """

    def __init__(self, model: Seq2Seq, precision: Precision) -> None:
        """Packs the weights of ``model``; what needs no packing is shared with it."""
        nn.Module.__init__(self)
        with torch.no_grad():
            model = _shared(model)
            self.config = model.config
            self.pack = _pack(model, precision)
            self.encoder = _swap(model.encoder, Float32Product, stepped=False)
            self.bridge = ExactBridge(_swap(model.bridge, Float32Product, stepped=False))
            self.decoder = _swap(model.decoder, self.pack, stepped=True)
            native = isinstance(self.decoder.attention, NativeMultiHeadAttention)
            self.wide_keys = model.device.type == "cpu" and not native  # a GPU has few units for float64
            self.embedding_dropout = model.embedding_dropout
            self.target_embedding = Table(model.target_embedding.weight)
            if model.config.tied != "all":
                self.source_embedding = Table(model.source_embedding.weight)
            weight = model.output_weight()
            self.output_table = self.target_embedding if model.config.tied != "none" else Table(weight)
            self.output_bias = model.output_bias
            self.project = self.pack(weight, model.output_bias)
            self.whole_step = whole_step(self.target_embedding.weight, self.decoder)
        self.eval().requires_grad_(False)

    def encode(self, source: Tensor, source_lengths: Tensor) -> Memory:
        """As :meth:`Seq2Seq.encode`, with keys in float64 where only so attention depends on no padding."""
        memory = super().encode(source, source_lengths)
        return memory._replace(keys=memory.keys.double()) if self.wide_keys else memory

    def step(self, state: State, token: Tensor, memory: Memory, output: Output | None = None) -> tuple[Tensor, State]:
        """As :meth:`Seq2Seq.step`."""
        if self.whole_step is None:
            return super().step(state, token, memory, output)
        features, state = self.whole_step(token, state, memory)
        return (output or self.logits)(features), state

    def logits(self, features: Tensor) -> Tensor:
        """Unnormalised log-probabilities (..., V) of features (..., E)."""
        logits: Tensor = self.project(features)
        return logits

    def rows(self, pieces: Tensor) -> Output:
        """The output for ``pieces`` (R) int64 alone, packed anew: its logits are those of :meth:`logits`."""
        return self.pack(self.output_table(pieces), self.output_bias[pieces])

    def output_weight(self) -> Tensor:
        """Output embeddings (V, E) float32, unpacked."""
        return self.output_table.weight.float()


class ExactBridge(Bridge):
    """A bridge whose mean over positions is summed in float64, so that it depends on no padding."""

    def __init__(self, bridge: Bridge) -> None:
        nn.Module.__init__(self)
        self.layers, self.cell, self.project = bridge.layers, bridge.cell, bridge.project

    def forward(self, outputs: Tensor, mask: Tensor) -> tuple[CellState, ...]:
        """As :meth:`Bridge.forward`."""
        return super().forward(outputs.double(), mask)


class Table(nn.Embedding):
    """Embeddings for lookup, in half the bytes where that is exact, as it is for what a checkpoint keeps in float16."""

    def __init__(self, weight: Tensor) -> None:
        half = weight.detach().half()
        exact = torch.equal(half.float(), weight)
        pieces, width = weight.shape
        super().__init__(pieces, width, _weight=half if exact else weight.detach(), _freeze=True)

    def forward(self, ids: Tensor) -> Tensor:
        """Rows (..., E) float32 of ``ids`` (...) int64."""
        return super().forward(ids).float()


def step_seconds(model: Seq2Seq, rows: Sequence[int] = ROWS, repeats: int = REPEATS) -> float:
    """Seconds of a decoder step of ``model``, the geometric mean over ``rows``; of ``repeats`` the fastest counts.

    On a CPU they are processor time of one thread, which tells precisions apart on a busy machine as well: several
    threads would wait for each other.
    """
    device = model.device
    logarithms = []
    with torch.inference_mode(), one_thread():
        for count in rows:
            length = torch.full((count,), POSITIONS, device=device)
            memory = model.encode(torch.full((count, POSITIONS), model.config.unk, device=device), length)
            state, token = model.start(memory), torch.full((count,), model.config.bos, device=device)
            seconds = [_timed(partial(model.step, state, token, memory), device) for _ in range(repeats + 1)]
            logarithms.append(math.log(min(seconds[1:])))
    return math.exp(sum(logarithms) / len(logarithms))


def _timed(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cpu":
        began = time.thread_time()
        work()
        return time.thread_time() - began
    torch.cuda.synchronize(device)
    began = time.perf_counter()
    work()
    torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _check(precision: str, device: torch.device) -> None:
    known = get_args(Precision)
    if precision not in known:
        raise PrecisionError(f"precision is {precision!r}; it must be auto, {', '.join(known)}")
    if precision == "int8" and device.type != "cpu":
        raise PrecisionError(f"int8 needs a CPU, the model is on {device}; use {' or '.join(supported(device))}")


def _shared(model: Seq2Seq) -> Seq2Seq:
    """A copy of ``model`` whose weights are its own, not copies of them, if they are float32."""
    weights = {id(weight): nn.Parameter(weight.detach().float(), False) for weight in model.parameters()}
    return copy.deepcopy(model, dict(weights))


def _pack(model: Seq2Seq, precision: Precision) -> Pack:
    if precision == "int8":
        hidden = model.config.hidden
        return partial(Int8Product, kernel=fastest_kernel(2 * hidden, 4 * hidden, ROWS))
    return {"float32": Float32Product, "bfloat16": Bfloat16Product}[precision]


def _swap(module: Swapped, pack: Pack, stepped: bool) -> Swapped:
    """``module`` with its matrices packed; layers that are not ``stepped`` unroll sequences, as they did."""
    for name, child in module.named_children():
        setattr(module, name, _packed(child, pack, stepped))
    return module


def _packed(child: nn.Module, pack: Pack, stepped: bool) -> nn.Module:
    if isinstance(child, LSTMLayer) and pack is Float32Product and can_pack(child.bias):
        return OneDnnLSTMLayer(child)
    if isinstance(child, RecurrentLayer):
        return JoinedLayer(child, pack) if stepped and child.joined() is not None else child
    if isinstance(child, nn.Linear) and child.out_features > 1:  # one channel is a vector, and left alone
        return pack(child.weight, child.bias)
    if isinstance(child, MultiHeadAttention) and (native := operators(child.query.weight.device)):
        return NativeMultiHeadAttention(_swap(child, pack, stepped), native)
    return _swap(child, pack, stepped)
