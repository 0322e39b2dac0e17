"""A trained model with its modules swapped for those of inference: weights packed, products in one precision.

The swap leaves the functions of :class:`model.seq2seq.Seq2Seq` as they are; what it was made from is not touched.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from typing import Literal, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from model.attention import MultiHeadAttention, NativeMultiHeadAttention
from model.cells.fused import LSTMLayer
from model.cells.layer import RecurrentLayer
from model.cells.packed import JoinedLayer, OneDnnLSTMLayer, SequenceLSTMLayer
from model.decoder import Memory, State
from model.encoder import BidirectionalLayer, Bridge
from model.int8 import pack_weights
from model.native import NativeInt8Product, Operators, operators
from model.products import Bfloat16Product, Float32Product, Int8Pack, Int8Product, Pack, can_pack, fastest_kernel
from model.seq2seq import Output, Ranking, Seq2Seq
from model.whole_step import whole_product, whole_step

Precision: TypeAlias = Literal["float32", "bfloat16", "int8"]

ROWS = (5, 160)  # of a step that is measured: one sentence and thirty-two, with a beam of 5

Swapped = TypeVar("Swapped", bound=nn.Module)


class PackedSeq2Seq(Seq2Seq):
    """A model whose weights are packed for inference.

    In int8 the encoder's LSTMs and the bridge are int8 as well, and the lexical shortcut is a table in float16. In
    bfloat16 encoder and bridge are float32: they run once a sentence, and all that follows hangs on them.
    """

    def __init__(self, model: Seq2Seq, precision: Precision) -> None:
        """Packs the weights of ``model``; what needs no packing is shared with it."""
        nn.Module.__init__(self)
        with torch.no_grad():
            model = _shared(model)
            self.config = model.config
            self.pack = _pack(model, precision)
            self.shortcut = self._shortcut_table(model) if precision == "int8" else None
            self.encoder = _swap(model.encoder, Float32Product, stepped=False, layers=self.pack)
            self.bridge = ExactBridge(_swap(model.bridge, self.pack if precision == "int8" else Float32Product, False))
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

    def encoder_outputs(self, source: Tensor, source_lengths: Tensor) -> Tensor:
        """As :meth:`Seq2Seq.encoder_outputs`."""
        outputs = super().encoder_outputs(source, source_lengths)
        return outputs if self.shortcut is None else outputs + self.shortcut(source)

    def _shortcut_table(self, model: Seq2Seq) -> Table | None:
        """Takes the lexical shortcut from the encoder of ``model``: what it gives depends on the piece alone."""
        shortcut, model.encoder.shortcut = model.encoder.shortcut, None
        if shortcut is None:
            return None
        table = model.target_embedding if model.config.tied == "all" else model.source_embedding
        return Table(shortcut(self._scale(table.weight)).half().float())

    def start(self, memory: Memory) -> State:
        """As :meth:`Seq2Seq.start`; what is in the state is the business of :meth:`step` alone."""
        state = super().start(memory)
        return state if self.whole_step is None else self.whole_step.start(state.cells)

    def step(self, state: State, token: Tensor, memory: Memory, output: Output | None = None) -> tuple[Tensor, State]:
        """As :meth:`Seq2Seq.step`."""
        if self.whole_step is None:
            return super().step(state, token, memory, output)
        if output is None:
            return self.whole_step(token, state, memory, whole_product(self.project))
        features, state = self.whole_step(token, state, memory, None)
        return output(features), state

    @property
    def strides(self) -> bool:
        """Where a step is one operator."""
        return self.whole_step is not None

    def stride(self, state: State, token: Tensor, memory: Memory, ranking: Ranking, most: int) -> tuple[Tensor, State]:
        """As :meth:`Seq2Seq.stride`."""
        assert self.whole_step is not None, "strides says so"
        output = ranking.allowed.output if ranking.allowed else self.project
        assert isinstance(output, Int8Product), "it is what rows() gave"
        return self.whole_step.stride(token, state, memory, whole_product(output), ranking, most)

    def logits(self, features: Tensor) -> Tensor:
        """Unnormalised log-probabilities (..., V) of features (..., E)."""
        logits: Tensor = self.project(features)
        return logits

    def rows(self, pieces: Tensor) -> Output:
        """The output for ``pieces`` (R) int64 alone, packed anew: its logits are those of :meth:`logits`."""
        if isinstance(self.pack, Int8Pack):
            integers, scale = self._output_integers
            return self.pack.of_integers(integers.index_select(0, pieces), scale[pieces], self.output_bias[pieces])
        return self.pack(self.output_table(pieces), self.output_bias[pieces])

    @cached_property
    def _output_integers(self) -> tuple[Tensor, Tensor]:
        """The output embeddings as int8 has them, for :meth:`rows`: (V, E) and their scales (V)."""
        return pack_weights(self.output_weight())

    def output_weight(self) -> Tensor:
        """Output embeddings (V, E) float32, unpacked."""
        return self.output_table.weight.float()


class ExactBridge(Bridge):
    """A bridge whose mean over positions is summed in float64, so that it depends on no padding."""

    def __init__(self, bridge: Bridge) -> None:
        nn.Module.__init__(self)
        self.layers, self.cell, self.project = bridge.layers, bridge.cell, bridge.project

    def mean(self, outputs: Tensor, mask: Tensor) -> Tensor:
        """As :meth:`Bridge.mean`."""
        if native := operators(outputs.device):
            return native.masked_mean(outputs, mask)
        return super().mean(outputs.double(), mask).float()


class NativeBidirectionalLayer(BidirectionalLayer):
    """Both directions in one call of the operators of :mod:`model.native`, each in a thread of its own."""

    def __init__(
        self, ahead: SequenceLSTMLayer, back: SequenceLSTMLayer, native: Operators, wholes: Sequence[NativeInt8Product]
    ) -> None:
        """Takes both layers over; ``wholes`` are their products as operators, of inputs and of ``h``."""
        super().__init__(ahead, back)
        self.native, self.wholes = native, wholes

    def forward(self, sequence: Tensor, reverse: Tensor) -> Tensor:
        """As :meth:`BidirectionalLayer.forward`."""
        return self.native.unroll_both(sequence.contiguous(), reverse, *self.wholes)


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


def _shared(model: Seq2Seq) -> Seq2Seq:
    """A copy of ``model`` whose weights are its own, not copies of them, if they are float32."""
    weights = {id(weight): nn.Parameter(weight.detach().float(), False) for weight in model.parameters()}
    return copy.deepcopy(model, dict(weights))


def _pack(model: Seq2Seq, precision: Precision) -> Pack:
    if precision == "int8":
        hidden = model.config.hidden
        return Int8Pack(fastest_kernel(2 * hidden, 4 * hidden, ROWS))
    packs: dict[str, Pack] = {"float32": Float32Product, "bfloat16": Bfloat16Product}
    return packs[precision]


def _swap(module: Swapped, pack: Pack, stepped: bool, layers: Pack | None = None) -> Swapped:
    """``module`` with its matrices packed, those of recurrent ``layers`` in a way of their own.

    Layers that are not ``stepped`` unroll sequences, as they did.
    """
    for name, child in module.named_children():
        setattr(module, name, _packed(child, pack, stepped, layers or pack))
    return module


def _packed(child: nn.Module, pack: Pack, stepped: bool, layers: Pack) -> nn.Module:
    if isinstance(child, LSTMLayer) and isinstance(layers, Int8Pack) and not stepped:
        return SequenceLSTMLayer(child, layers)
    if isinstance(child, LSTMLayer) and pack is Float32Product and can_pack(child.bias):
        return OneDnnLSTMLayer(child)
    if isinstance(child, RecurrentLayer):
        return JoinedLayer(child, layers) if stepped and child.joined() is not None else child
    if isinstance(child, nn.Linear) and child.out_features > 1:  # one channel is a vector, and left alone
        return pack(child.weight, child.bias)
    if isinstance(child, MultiHeadAttention) and (native := operators(child.query.weight.device)):
        return NativeMultiHeadAttention(_swap(child, pack, stepped, layers), native)
    if isinstance(child, BidirectionalLayer):
        return _both_at_once(_swap(child, pack, stepped, layers))
    return _swap(child, pack, stepped, layers)


def _both_at_once(layer: BidirectionalLayer) -> BidirectionalLayer:
    """``layer`` as one operator, where there is one for what its directions have become."""
    ahead, back = layer.forward_layer, layer.backward_layer
    if not (isinstance(ahead, SequenceLSTMLayer) and isinstance(back, SequenceLSTMLayer)):
        return layer
    if ahead.native is None or ahead.wholes is None or back.wholes is None:
        return layer
    return NativeBidirectionalLayer(ahead, back, ahead.native, (*ahead.wholes, *back.wholes))
