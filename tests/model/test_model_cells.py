"""What holds for every cell: stepping is unrolling, gradients are those of the loop, states are plain tensors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.cells import CELLS, CellState, RecurrentLayer, build_cell

TIME, ROWS, INPUTS, HIDDEN = 6, 3, 5, 4
LSTMS = ["lstm", "peephole_lstm", "layernorm_lstm"]
GATES = {"rnn": set(), "gru": {"reset", "update"}, "ssru": {"forget"}} | {
    kind: {"input", "forget", "output"} for kind in LSTMS
}

every_cell = pytest.mark.parametrize("kind", CELLS)


def lively(kind: str, inputs: int = INPUTS, hidden: int = HIDDEN) -> RecurrentLayer:
    """A layer in float64 of which no weight is zero or like another."""
    torch.manual_seed(1)
    layer = build_cell(kind, inputs, hidden).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += torch.randn_like(parameter) * 0.5
    return layer


def random_parts(layer: RecurrentLayer) -> list[Tensor]:
    torch.manual_seed(3)
    return [torch.randn(ROWS, layer.hidden, dtype=torch.float64, requires_grad=True) for _ in range(layer.parts)]


def random_sequence() -> Tensor:
    torch.manual_seed(2)
    return torch.randn(TIME, ROWS, INPUTS, dtype=torch.float64, requires_grad=True)


def unrolled(layer: RecurrentLayer, sequence: Tensor, state: CellState) -> tuple[Tensor, CellState]:
    """As ``forward``, a step at a time."""
    outputs = []
    for inputs in sequence:
        state = layer.step(inputs, state)
        outputs.append(state.hidden)
    return torch.stack(outputs), state


@every_cell
def test_stepping_equals_forward(kind: str) -> None:
    layer, sequence = lively(kind), random_sequence()
    state = layer.begin(*random_parts(layer))
    output, last = layer(sequence, state)
    expected, end = unrolled(layer, sequence, state)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(last, end)


@every_cell
def test_gradients_equal_those_of_the_loop(kind: str) -> None:
    """Of every weight, every input and the first state, from every output and the last state."""
    layer, sequence = lively(kind), random_sequence()
    parts = random_parts(layer)
    wanted = [*layer.parameters(), sequence, *parts]

    def gradients(outputs: Tensor, last: CellState) -> tuple[Tensor, ...]:
        return torch.autograd.grad(outputs.square().sum() + outputs[1].sum() + last.cell.sin().sum(), wanted)

    found = gradients(*layer(sequence, layer.begin(*parts)))
    expected = gradients(*unrolled(layer, sequence, layer.begin(*parts)))
    torch.testing.assert_close(found, expected)
    assert all(gradient.any() for gradient in found)


@pytest.mark.parametrize("kind", ["peephole_lstm", "layernorm_lstm", "ssru"])
def test_a_hand_written_gradient_is_that_of_finite_differences(kind: str) -> None:
    layer, sequence = lively(kind, inputs=1, hidden=2), random_sequence()[:3, :, :1]
    names = [name for name, _ in layer.named_parameters()]

    def run(sequence: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        weights = dict(zip(names, others[layer.parts :], strict=True))
        state = layer.begin(*others[: layer.parts])
        outputs, last = torch.func.functional_call(layer, weights, (sequence, state))
        return outputs, *last

    assert torch.autograd.gradcheck(run, (sequence, *random_parts(layer), *layer.parameters()))


@every_cell
def test_one_position_is_a_sequence(kind: str) -> None:
    layer, sequence = lively(kind), random_sequence()[:1]
    state = layer.begin(*random_parts(layer))
    output, last = layer(sequence, state)
    torch.testing.assert_close(last, layer.step(sequence[0], state))
    torch.testing.assert_close(output[0], last.hidden)


@every_cell
def test_a_row_does_not_see_the_others(kind: str) -> None:
    layer, sequence = lively(kind), random_sequence()
    state = layer.begin(*random_parts(layer))
    output, _ = layer(sequence, state)
    alone, _ = layer(sequence[:, 1:2], CellState(*(part[1:2] for part in state)))
    torch.testing.assert_close(output[:, 1:2], alone)


@every_cell
def test_it_starts_from_zeros(kind: str) -> None:
    state = build_cell(kind, INPUTS, HIDDEN).start(2)
    assert state.hidden.shape == (2, HIDDEN)
    assert state.cell.shape == (2, HIDDEN if kind in LSTMS or kind == "ssru" else 0)
    assert not state.hidden.any() and not state.cell.any()


@every_cell
def test_a_state_keeps_its_shape(kind: str) -> None:
    """So that states of the search's rows can be joined whenever their sentences came."""
    layer, sequence = lively(kind), random_sequence()
    fresh = layer.start(ROWS)
    for state in (layer.begin(*random_parts(layer)), layer.step(sequence[0], fresh), layer(sequence, fresh)[1]):
        assert [part.shape for part in state] == [part.shape for part in fresh]


@every_cell
def test_gates_have_the_names_of_the_field(kind: str) -> None:
    layer, sequence = lively(kind), random_sequence()
    gates = layer.gates(sequence[0], layer.begin(*random_parts(layer)))
    assert gates.keys() == GATES[kind]
    for gate in gates.values():
        assert gate.shape == (ROWS, HIDDEN)
        assert ((gate > 0) & (gate < 1)).all()


@every_cell
def test_bfloat16_comes_close(kind: str) -> None:
    """Under autocast, forwards and back; the weights and their gradients stay float32."""
    layer = lively(kind).float()
    sequence = random_sequence().detach().float()
    exact = layer(sequence, layer.start(ROWS))[0]
    expected = torch.autograd.grad(exact.sum(), list(layer.parameters()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, last = layer(sequence, layer.start(ROWS))
        stepped = layer.step(sequence[-1], last)
    assert stepped.hidden.shape == last.hidden.shape
    torch.testing.assert_close(output.float(), exact, atol=0.1, rtol=0)
    found = torch.autograd.grad(output.float().sum(), list(layer.parameters()))
    for gradient, reference in zip(found, expected, strict=True):
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, reference, atol=0.1 * float(reference.abs().max()), rtol=0)


@pytest.mark.parametrize("kind", [kind for kind in CELLS if kind != "ssru"])
def test_recurrent_weights_begin_orthogonal_in_each_block(kind: str) -> None:
    layer = build_cell(kind, INPUTS, HIDDEN)
    for block in layer.weight_hh.split(HIDDEN):
        torch.testing.assert_close(block @ block.T, torch.eye(HIDDEN))


@pytest.mark.parametrize("kind", [*LSTMS, "gru"])
def test_the_gate_that_remembers_begins_open(kind: str) -> None:
    """Its bias is 1 and the others are 0; it is the second block of an LSTM and of a GRU."""
    bias = build_cell(kind, INPUTS, HIDDEN).bias
    assert bias[HIDDEN : 2 * HIDDEN].tolist() == [1.0] * HIDDEN
    assert bias.sum().item() == HIDDEN


def test_an_ssru_begins_by_remembering() -> None:
    assert build_cell("ssru", INPUTS, HIDDEN).bias.tolist() == [1.0] * HIDDEN


def test_a_peephole_lstm_begins_as_an_lstm() -> None:
    torch.manual_seed(5)
    plain, peephole = build_cell("lstm", INPUTS, HIDDEN), build_cell("peephole_lstm", INPUTS, HIDDEN)
    peephole.load_state_dict(plain.state_dict(), strict=False)
    sequence = random_sequence().float()
    torch.testing.assert_close(peephole(sequence, peephole.start(ROWS)), plain(sequence, plain.start(ROWS)))


def test_where_nothing_recurs_through_weights_none_can_be_dropped() -> None:
    with pytest.raises(ValueError, match="ssru has no recurrent weights"):
        build_cell("ssru", INPUTS, HIDDEN, recurrent_dropout=0.1)
