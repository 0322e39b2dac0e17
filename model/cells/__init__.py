"""The recurrent family: one table from the name in a recipe to the layer that it means."""

from __future__ import annotations

from model.cells.fused import GRULayer, LSTMLayer, RNNLayer
from model.cells.layer import CellState, MatrixLayer, RecurrentLayer

__all__ = ["CELLS", "CellState", "GRULayer", "LSTMLayer", "MatrixLayer", "RNNLayer", "RecurrentLayer", "build_cell"]

CELLS: dict[str, type[RecurrentLayer]] = {
    "rnn": RNNLayer,
    "gru": GRULayer,
    "lstm": LSTMLayer,
}


def build_cell(kind: str, inputs: int, hidden: int, recurrent_dropout: float = 0.0) -> RecurrentLayer:
    """The layer that ``kind`` names. A ValueError refuses recurrent dropout to a cell without recurrent weights."""
    layer = CELLS[kind]
    if issubclass(layer, MatrixLayer):
        return layer(inputs, hidden, recurrent_dropout)
    if recurrent_dropout:
        raise ValueError(f"{kind} has no recurrent weights to drop; set recurrent_dropout to 0")
    return layer(inputs, hidden)
