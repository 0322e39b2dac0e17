"""Layers for inference: the input and the recurrent product of a step as one, or oneDNN's whole cell, packed once."""

from __future__ import annotations

import torch
from torch import Tensor

from model.cells.fused import LSTMLayer
from model.cells.layer import CellState, RecurrentLayer
from model.native import NativeInt8Product, operators
from model.products import Int8Product, Pack

LSTM_MODE = 2  # torch's number for it, as in cuDNN's rnnMode


class JoinedLayer(RecurrentLayer):
    """Steps a layer by the one product of [x; h] that its :meth:`RecurrentLayer.joined` names."""

    def __init__(self, layer: RecurrentLayer, pack: Pack) -> None:
        """Takes ``layer`` over and strips it of the weights that ``pack`` has packed."""
        super().__init__(layer.inputs, layer.hidden)
        joined = layer.joined()
        if joined is None:
            raise ValueError(f"a step of {type(layer).__name__} is not one product; leave it as it is")
        weight, bias = joined
        self.recurrent_inputs = weight.shape[1] > layer.inputs
        self.product = pack(weight, bias, gates=isinstance(layer, LSTMLayer))
        self.layer = layer
        self.native = operators(weight.device) if isinstance(layer, LSTMLayer) else None
        self.whole = self.product.whole if self.native and isinstance(self.product, Int8Product) else None
        _strip(layer)

    def forward(self, sequence: Tensor, state: CellState) -> tuple[Tensor, CellState]:
        """Step over ``sequence`` (T, N, I) from ``state``; returns outputs (T, N, H) and the last state."""
        outputs = []
        for inputs in sequence:
            state = self.step(inputs, state)
            outputs.append(state.hidden)
        return torch.stack(outputs), state

    def step(self, inputs: Tensor, state: CellState, recurrent: Tensor | None = None) -> CellState:
        """One position: ``inputs`` (N, I) and the state before it give the state after it."""
        if self.whole is not None:
            return CellState(*self.whole.lstm(inputs, state.hidden, state.cell))
        seen = torch.cat([inputs, state.hidden], dim=-1) if self.recurrent_inputs else inputs
        if self.native:
            return CellState(*self.native.lstm_gates(self.product(seen), state.cell))
        return self.layer.advance(self.product(seen), state)


class SequenceLSTMLayer(RecurrentLayer):
    """An LSTM over whole sequences, the products with its inputs being one product of all positions.

    Inputs and state have a scale each in int8, which :class:`JoinedLayer` has for both together.
    """

    def __init__(self, layer: LSTMLayer, pack: Pack) -> None:
        """Packs the weights of ``layer``."""
        super().__init__(layer.inputs, layer.hidden)
        self.inputs_product = pack(layer.weight_ih, layer.bias)
        self.recurrent_product = pack(layer.weight_hh, None, gates=True)
        self.native, self.layer = operators(layer.bias.device), layer
        _strip(layer)

    @property
    def wholes(self) -> tuple[NativeInt8Product, NativeInt8Product] | None:
        """Both products as operators that take the whole sequence, if there are such."""
        inputs, recurrent = self.inputs_product, self.recurrent_product
        if not (isinstance(inputs, Int8Product) and isinstance(recurrent, Int8Product)):
            return None
        return (inputs.whole, recurrent.whole) if inputs.whole is not None and recurrent.whole is not None else None

    @staticmethod
    def begin(*parts: Tensor) -> CellState:
        """``hidden`` and ``cell``, (N, H) each."""
        return LSTMLayer.begin(*parts)

    def start(self, rows: int) -> CellState:
        """Zero state for ``rows`` sequences."""
        zeros = torch.zeros(rows, self.hidden)
        return CellState(zeros, zeros)

    def forward(self, sequence: Tensor, state: CellState) -> tuple[Tensor, CellState]:
        """Unroll over ``sequence`` (T, N, I) from ``state``; returns outputs (T, N, H) and the last state."""
        steps = []
        for products in self.inputs_product(sequence):
            gates = products + self.recurrent_product(state.hidden)
            if self.native:
                state = CellState(*self.native.lstm_gates(gates, state.cell))
            else:
                state = self.layer.advance(gates, state)
            steps.append(state.hidden)
        return torch.stack(steps), state

    def step(self, inputs: Tensor, state: CellState, recurrent: Tensor | None = None) -> CellState:
        """One position: ``inputs`` (N, I) and the state before it give the state after it."""
        _, after = self.forward(inputs.unsqueeze(0), state)
        return after


class OneDnnLSTMLayer(RecurrentLayer):
    """An LSTM by oneDNN's cell, as :class:`LSTMLayer` is on a CPU, but with weights that were packed once.

    The numbers are the same, bit by bit, and no row's depend on the other rows (tests). A step is a sequence of one.
    """

    def __init__(self, layer: LSTMLayer) -> None:
        """Packs the weights of ``layer``, which must be float32 and on a CPU that has oneDNN."""
        super().__init__(layer.inputs, layer.hidden)
        weights = (layer.weight_ih.detach(), layer.weight_hh.detach())
        reorder = torch.ops.mkldnn._reorder_mkldnn_rnn_layer_weight
        packed: list[Tensor] = reorder(*weights, layer.hidden, False, True, False, None)
        self.weights = (packed[0], packed[1], layer.bias.detach(), torch.zeros_like(layer.bias))

    @staticmethod
    def begin(*parts: Tensor) -> CellState:
        """``hidden`` and ``cell``, (N, H) each."""
        return LSTMLayer.begin(*parts)

    def start(self, rows: int) -> CellState:
        """Zero state for ``rows`` sequences."""
        zeros = self.weights[-1].new_zeros(rows, self.hidden)
        return CellState(zeros, zeros)

    def forward(self, sequence: Tensor, state: CellState) -> tuple[Tensor, CellState]:
        """Unroll over ``sequence`` (T, N, I) from ``state``; returns outputs (T, N, H) and the last state."""
        input_weight, recurrent_weight, bias, no_bias = self.weights
        outputs, hidden, cell, _ = torch.mkldnn_rnn_layer(
            sequence.contiguous(),
            input_weight,
            recurrent_weight,
            bias,
            no_bias,
            state.hidden.contiguous().unsqueeze(0),  # it reads strides as it pleases
            state.cell.contiguous().unsqueeze(0),
            reverse=False,
            batch_sizes=[],
            mode=LSTM_MODE,
            hidden_size=self.hidden,
            num_layers=1,
            has_biases=True,
            bidirectional=False,
            batch_first=False,
            train=False,
        )
        return outputs, CellState(hidden.view(-1, self.hidden), cell.view(-1, self.hidden))

    def step(self, inputs: Tensor, state: CellState, recurrent: Tensor | None = None) -> CellState:
        """One position: ``inputs`` (N, I) and the state before it give the state after it."""
        _, after = self.forward(inputs.unsqueeze(0), state)
        return after


def _strip(layer: RecurrentLayer) -> None:
    """Take the weights from ``layer`` that have been packed."""
    for name in {"weight_ih", "weight_hh", "bias"} & {name for name, _ in layer.named_parameters()}:
        delattr(layer, name)
