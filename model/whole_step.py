"""The decoder step of a packed model as one operator, where all that it consists of is in C++."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from model.attention import NativeMultiHeadAttention
from model.cells.layer import CellState
from model.cells.packed import JoinedLayer
from model.decoder import Decoder, Memory, State
from model.native import NativeInt8Product
from model.products import Int8Product


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
            _whole(attention.query),
            _whole(attention.output),
            _whole(decoder.combine),
            attention.heads,
            decoder.residual,
        )
        for layer, norm in zip(decoder.layers, decoder.norms, strict=True):
            if not isinstance(layer, JoinedLayer) or layer.whole is None:
                raise ValueError("a layer has no operator")
            parts = (norm.weight, norm.bias, norm.eps) if isinstance(norm, nn.LayerNorm) else (None, None, 0.0)
            self._step.add_layer(layer.whole, *parts)

    def __call__(self, token: Tensor, state: State, memory: Memory) -> tuple[Tensor, State]:
        """Features (N, E) of the pieces ``token`` (N) int64, and the next state."""
        hidden, cell = [part.hidden for part in state.cells], [part.cell for part in state.cells]
        features, hiddens, cells = self._step.step(token, hidden, cell, memory.keys, memory.mask)
        return features, State(_states(hiddens, cells), None)


def whole_step(table: Tensor, decoder: Decoder) -> WholeStep | None:
    """The step as one operator, or None where not all of it has one."""
    try:
        return WholeStep(table, decoder)
    except ValueError:
        return None


def _whole(product: nn.Module) -> NativeInt8Product:
    if not isinstance(product, Int8Product) or product.whole is None:
        raise ValueError("a product has no operator")
    return product.whole


def _states(hiddens: Sequence[Tensor], cells: Sequence[Tensor]) -> tuple[CellState, ...]:
    return tuple(CellState(*parts) for parts in zip(hiddens, cells, strict=True))
