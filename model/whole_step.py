"""The decoder step of a packed model as one operator, where all that it consists of is in C++."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.attention import NativeMultiHeadAttention
from model.cells.layer import CellState
from model.cells.packed import JoinedLayer
from model.decoder import Decoder, Memory, State
from model.native import NativeInt8Product
from model.products import Int8Product
from model.seq2seq import Ranking

SPARE = 16  # columns of 4 bytes: a line of the cache


class WholeStep:
    """:meth:`model.decoder.Decoder.step` from pieces to features, the same numbers bit by bit (tests)."""

    def __init__(self, table: Tensor, decoder: Decoder) -> None:
        """Embeddings ``table`` (V, E) and a packed ``decoder``. Raises ValueError for one that is not whole in C++."""
        attention = decoder.attention
        if decoder.input_feeding or not isinstance(attention, NativeMultiHeadAttention):
            raise ValueError("input feeding and other attentions have no operators")
        self._step = attention.native.decoder_step(
            table,
            math.sqrt(table.shape[1]),
            whole_product(attention.query),
            whole_product(attention.output),
            whole_product(decoder.combine),
            attention.heads,
            decoder.residual,
        )
        for layer, norm in zip(decoder.layers, decoder.norms, strict=True):
            if not isinstance(layer, JoinedLayer) or layer.whole is None:
                raise ValueError("a layer has no operator")
            parts = (norm.weight, norm.bias, norm.eps) if isinstance(norm, nn.LayerNorm) else (None, None, 0.0)
            self._step.add_layer(layer.whole, *parts)

    def start(self, cells: Sequence[CellState]) -> State:
        """The state of which :meth:`__call__` makes the next, of each layer's: one array, which one gather reorders.

        Its last columns are nothing: rows that lay a power of two apart would share a few places of the cache.
        """
        parts = [part for cell in cells for part in cell]
        joined = torch.cat([*parts, parts[0].new_zeros(len(parts[0]), SPARE)], dim=1)
        return State((CellState(joined, joined[:, :0]),), None)

    def __call__(
        self, token: Tensor, state: State, memory: Memory, output: NativeInt8Product | None
    ) -> tuple[Tensor, State]:
        """Logits (N, V), by the product ``output``, of what follows the pieces ``token`` (N) int64; the next state.

        Without ``output`` they are features (N, E).
        """
        ((joined, nothing),) = state.cells
        found, joined = self._step.step(token, joined, memory.keys, memory.mask, output)
        return found, State((CellState(joined, nothing),), None)

    def stride(
        self, token: Tensor, state: State, memory: Memory, output: NativeInt8Product, ranking: Ranking, most: int
    ) -> tuple[Tensor, State]:
        """Up to ``most`` steps of a beam search: :meth:`model.native.DecoderStep.stride`."""
        ((joined, _),) = state.cells
        costs, width, padded, end, barred, alone, allowed = ranking
        given = (token, joined, memory.keys, memory.mask, output, costs)
        only = (allowed.pieces, allowed.penalty) if allowed else (None, None)
        keys, joined, _ = self._step.stride(*given, width, most, padded, end, barred, alone, *only)
        return keys, State((CellState(joined, joined[:, :0]),), None)


def whole_step(table: Tensor, decoder: Decoder) -> WholeStep | None:
    """The step as one operator, or None where not all of it has one."""
    try:
        return WholeStep(table, decoder)
    except ValueError:
        return None


def whole_product(product: nn.Module) -> NativeInt8Product:
    """The operator that ``product`` is. Raises ValueError if it is none."""
    if not isinstance(product, Int8Product) or product.whole is None:
        raise ValueError("a product has no operator")
    return product.whole
