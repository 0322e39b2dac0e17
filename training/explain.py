"""Inside a model while it translates one sentence: its attention, its gates, and how far its gradient reaches.

Through a recurrent layer the gradient of a later state with respect to an earlier input is a product of Jacobians, one
for each position between them. Where these shrink, it vanishes exponentially with the distance (Hochreiter 1991;
Bengio, Simard & Frasconi 1994; Pascanu, Mikolov & Bengio 2013, section 2.1). The additive cell of the LSTM was made
against that: along it the factor is the forget gate alone (Hochreiter & Schmidhuber 1997; Gers et al. 2000).

Two measures, because a whole model has other ways than that product:

- *the full model*: the norm of ``d loss_t / d x_s``, with ``loss_t = -log p(y_t | y_<t, source)``. The source reaches a
  position by attention, whatever the distance. An earlier target piece reaches it only through the decoder's recurrent
  layers, but through any of them.
- *one layer alone*: the Frobenius norm of ``d h_t / d x_s`` from a layer's input to its own hidden state, all other
  inputs and the start held fixed. No attention, no residual connection, nothing between layers takes part.

All of it is computed without dropout, in the type of the weights, and comes out the same each time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from model.cells import CellState, RecurrentLayer
from model.seq2seq import Seq2Seq
from training.explain_trace import Recorder, Trace
from training.reach import Reach

DIRECTIONS = 32
LONGEST = 200  # pieces of a side: the work and the pictures grow with the square, and of more a picture shows nothing


class ExplainError(Exception):
    """What was to be explained is not there, or too long; the message says what would be right."""


class LayerActivity(NamedTuple):
    """One layer over the T positions of a sentence, in the order of the text also where the layer runs backward."""

    name: str  # encoder.N.forward, encoder.N.backward or decoder.N; 1 is the bottom
    gates: dict[str, Tensor]  # (T, H) each, between 0 and 1, by the field's names; a cell may have none
    hidden: Tensor  # (T, H)
    recurrence: Tensor  # (T, T) float64, Frobenius norm of d h_t / d x_s at [t, s]; 0 where h_t does not depend on x_s

    @property
    def backward(self) -> bool:
        """Whether the layer reads the sentence from its end, so that h_t depends on the x_s that follow."""
        return self.name.endswith(".backward")

    @property
    def reach(self) -> Reach:
        """How far the gradient comes inside this layer."""
        return Reach.of(self.recurrence.t() if self.backward else self.recurrence)


class Explanation(NamedTuple):
    """One sentence and its translation; S source and T target positions, end-of-sentence included in both."""

    log_probabilities: Tensor  # (T), of each target piece, natural logarithm
    attention: Tensor  # (T, S), rows sum to one; the mean of the heads
    source_gradients: Tensor  # (T, S) float64, norm of d loss_t / d embedded source position s
    target_gradients: Tensor  # (T, T) float64, norm of d loss_t / d embedded target input s; 0 for s > t
    layers: tuple[LayerActivity, ...]  # the encoder's from the bottom, each forward then backward, then the decoder's

    def layer(self, name: str) -> LayerActivity:
        """The layer of that name; an ExplainError lists the names there are."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        known = ", ".join(layer.name for layer in self.layers)
        raise ExplainError(f"there is no layer {name!r}; this model has {known}")


def layer_names(model: Seq2Seq) -> list[str]:
    """The names of a model's recurrent layers, in the order of :attr:`Explanation.layers`."""
    config = model.config
    numbers = range(1, config.encoder_layers + 1)
    encoder = [f"encoder.{number}.{way}" for number in numbers for way in ("forward", "backward")]
    return encoder + [f"decoder.{number}" for number in range(1, config.decoder_layers + 1)]


def explain(model: Seq2Seq, source: Sequence[int], target: Sequence[int], directions: int = DIRECTIONS) -> Explanation:
    """Explain the translation ``target`` of ``source``, ids without begin- or end-of-sentence.

    The norms of :attr:`LayerActivity.recurrence` are estimated from so many ``directions``; with as many as a layer is
    wide they are exact. ``model`` is left as it is. Raises ExplainError for an empty source and for a side of more than
    :data:`LONGEST` pieces, IndexError for an id outside the vocabulary.
    """
    if not source:
        raise ExplainError("the text has no pieces; give a sentence")
    check_length("text", len(source))
    check_length("target", len(target))
    trace = Trace(model)
    config, model = trace.model.config, trace.model
    device = model.output_bias.device
    ids = torch.tensor([[*source, config.eos]], device=device)  # (1, S)
    length = torch.tensor([ids.shape[1]], device=device)
    target_input = torch.tensor([[config.bos, *target]], device=device)  # (1, T)
    target_output = torch.tensor([*target, config.eos], device=device)  # (T)
    features, attention = model.attend(ids, length, target_input)
    scores = torch.log_softmax(model.logits(features[0]), dim=-1)  # (T, V)
    log_probabilities = scores.gather(1, target_output.unsqueeze(1)).squeeze(1)  # (T)
    source_gradients, target_gradients = _gradients(-log_probabilities, trace.embedded)
    layers = tuple(_activity(name, recorder, directions) for name, recorder in trace.recorders.items())
    return Explanation(log_probabilities.detach(), attention[0].detach(), source_gradients, target_gradients, layers)


def check_length(side: str, pieces: int) -> None:
    """Raise ExplainError for a side of too many pieces to be explained."""
    if pieces > LONGEST:
        raise ExplainError(
            f"the {side} has {pieces:,} pieces, of which at most {LONGEST} are explained; give a shorter sentence"
        )


def _gradients(losses: Tensor, embedded: Sequence[Tensor]) -> list[Tensor]:
    """For each of ``embedded`` (P, 1, E) the norms (T, P) of the gradients of ``losses`` (T)."""
    rows = [torch.autograd.grad(loss, embedded, retain_graph=True) for loss in losses]
    return [
        torch.stack([gradient.double().norm(dim=(1, 2)) for gradient in parts]) for parts in zip(*rows, strict=True)
    ]


def _activity(name: str, recorder: Recorder, directions: int) -> LayerActivity:
    layer, state = recorder.layer, recorder.first
    assert state is not None
    recurrence = _recurrence(layer, recorder.seen, state, directions)
    hidden: list[Tensor] = []
    gates: list[dict[str, Tensor]] = []
    with torch.no_grad():
        for inputs in recorder.seen:
            gates.append(layer.gates(inputs, state))
            state = layer.step(inputs, state)
            hidden.append(state.hidden)
    by_name = {gate: torch.cat([values[gate] for values in gates]) for gate in gates[0]}
    activity = LayerActivity(name, by_name, torch.cat(hidden), recurrence)
    if not activity.backward:
        return activity
    flipped = {gate: values.flip(0) for gate, values in by_name.items()}
    return LayerActivity(name, flipped, activity.hidden.flip(0), recurrence.flip(0, 1))


def _recurrence(layer: RecurrentLayer, inputs: Sequence[Tensor], start: CellState, directions: int) -> Tensor:
    """Frobenius norms (T, T) of ``d h_t / d x_s`` at [t, s], in the order in which the layer reads ``inputs``.

    A vector q times a Jacobian J is one backward pass. Over K orthonormal q drawn at random, ``H / K sum |q J|^2`` is
    ``|J|^2`` in the mean (the estimator of Hutchinson 1990, its directions made orthogonal), and with K = H itself.
    """
    basis = _directions(layer.hidden, directions).to(inputs[0])  # (K, H)
    rows = [position.expand(len(basis), -1).clone().requires_grad_() for position in inputs]  # (K, I) a position
    state = CellState(*(part.expand(len(basis), -1) for part in start))
    norms = torch.zeros(len(inputs), len(inputs), dtype=torch.float64)
    hidden: list[Tensor] = []
    for row in rows:
        state = layer.step(row, state)
        hidden.append(state.hidden)
    for time, output in enumerate(hidden):
        gradients = torch.autograd.grad(output, rows[: time + 1], basis, retain_graph=True)
        norms[time, : time + 1] = torch.stack([gradient.double().norm() for gradient in gradients])
    return norms * math.sqrt(layer.hidden / len(basis))


def _directions(hidden: int, count: int) -> Tensor:
    """Orthonormal rows (K, H) float64, the same each time; all directions there are if ``count`` reaches H."""
    if count >= hidden:
        return torch.eye(hidden, dtype=torch.float64)
    drawn = torch.randn(hidden, count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    columns: Tensor = torch.linalg.qr(drawn).Q
    return columns.t()
