"""The recurrent family: one table from the name in a recipe to the layer that it means."""

from __future__ import annotations

from model.cells.fused import GRULayer, LSTMLayer, RNNLayer
from model.cells.layer import CellState, MatrixLayer, RecurrentLayer
from model.cells.layer_norm import LayerNormLSTMLayer
from model.cells.peephole import PeepholeLSTMLayer
from model.cells.ssru import SSRULayer

__all__ = ["CELLS", "CellState", "RecurrentLayer", "build_cell"]

CELLS: dict[str, type[RecurrentLayer]] = {
    "rnn": RNNLayer,
    "gru": GRULayer,
    "lstm": LSTMLayer,
    "peephole_lstm": PeepholeLSTMLayer,
    "layernorm_lstm": LayerNormLSTMLayer,
    "ssru": SSRULayer,
}


def build_cell(kind: str, inputs: int, hidden: int, recurrent_dropout: float = 0.0) -> RecurrentLayer:
    """The layer that ``kind`` names. A ValueError refuses recurrent dropout to a cell without recurrent weights."""
    layer = CELLS[kind]
    if issubclass(layer, MatrixLayer):
        return layer(inputs, hidden, recurrent_dropout)
    if recurrent_dropout:
        raise ValueError(f"{kind} has no recurrent weights to drop; set recurrent_dropout to 0")
    return layer(inputs, hidden)
