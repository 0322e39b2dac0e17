"""What each recurrent layer of a model was given while it read one sentence, taken down without touching the model."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from model.cells import CellState, RecurrentLayer
from model.encoder import BidirectionalLayer
from model.seq2seq import Seq2Seq


class Recorder(RecurrentLayer):
    """Stands where a layer stood, does what that does, and remembers the inputs and the start of one row."""

    def __init__(self, layer: RecurrentLayer) -> None:
        super().__init__(layer.inputs, layer.hidden)
        self.layer = layer
        self.seen: list[Tensor] = []  # (1, I) a position
        self.first: CellState | None = None

    def start(self, rows: int) -> CellState:
        return self.layer.start(rows)

    def recurrent(self) -> Tensor | None:
        return self.layer.recurrent()

    def forward(self, sequence: Tensor, state: CellState) -> tuple[Tensor, CellState]:
        for inputs in sequence:
            self._record(inputs, state)
        output: tuple[Tensor, CellState] = self.layer(sequence, state)
        return output

    def step(self, inputs: Tensor, state: CellState, recurrent: Tensor | None = None) -> CellState:
        self._record(inputs, state)
        return self.layer.step(inputs, state, recurrent)

    def _record(self, inputs: Tensor, state: CellState) -> None:
        self.seen.append(inputs.detach())
        if self.first is None:
            self.first = CellState(*(part.detach() for part in state))


class Trace:
    """A copy of a model whose layers record, and whose embedded source and target are leaves that take gradients."""

    def __init__(self, model: Seq2Seq) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.embedded: list[Tensor] = []  # source (S, 1, E), then target input (T, 1, E)
        self.recorders: dict[str, Recorder] = {}
        for number, layer in enumerate(self.model.encoder.layers, start=1):
            assert isinstance(layer, BidirectionalLayer)
            layer.forward_layer = self._recorder(f"encoder.{number}.forward", layer.forward_layer)
            layer.backward_layer = self._recorder(f"encoder.{number}.backward", layer.backward_layer)
        layers = self.model.decoder.layers
        for index, layer in enumerate(layers):
            assert isinstance(layer, RecurrentLayer)
            layers[index] = self._recorder(f"decoder.{index + 1}", layer)
        for part in (self.model.encoder, self.model.decoder):
            part.register_forward_pre_hook(self._embed)

    def _recorder(self, name: str, layer: RecurrentLayer) -> Recorder:
        self.recorders[name] = Recorder(layer)
        return self.recorders[name]

    def _embed(self, part: torch.nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        embedded, *others = arguments
        self.embedded.append(embedded.detach().requires_grad_())
        return self.embedded[-1], *others
