"""What explain measures is so: attention, gates and gradients equal what others compute."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from model.config import ModelConfig
from model.search import annotate
from model.seq2seq import Seq2Seq
from training.explain import LONGEST, ExplainError, Explanation, explain, layer_names
from training.reach import Reach

SOURCE, TARGET = [5, 9, 4, 11, 6], [7, 4, 8, 10]
CELLS = ["rnn", "gru", "lstm", "peephole_lstm", "layernorm_lstm", "ssru"]


def lively_model(dtype: torch.dtype = torch.float64, **choices: object) -> Seq2Seq:
    """A model of width 8 whose random weights are large enough that every input matters."""
    config = ModelConfig.model_validate(
        {"source_vocabulary": 12, "target_vocabulary": 12, "embedding": 6, "hidden": 8, "heads": 2, **choices}
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = Seq2Seq(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn_like(parameter) * 0.3
    return model.to(dtype).eval().requires_grad_(False)


def losses(model: Seq2Seq, source: Tensor, target: Tensor) -> Tensor:
    """The loss of each piece of TARGET and its end, by single steps, from embedded source (S, E) and target (T, E)."""
    length = torch.tensor([len(source)])
    outputs = model.encoder(source.unsqueeze(1), length).transpose(0, 1)
    mask = torch.ones(1, len(source), dtype=torch.bool)
    memory = model.encode(torch.zeros(1, len(source), dtype=torch.int64), length)
    memory = memory._replace(keys=model.decoder.attention.project(outputs), values=outputs, mask=mask)
    state, found = model.start(memory), []
    for embedded, piece in zip(target, [*TARGET, model.config.eos], strict=True):
        features, state, _ = model.decoder.step(embedded.unsqueeze(0), state, memory)
        found.append(-torch.log_softmax(model.logits(features), dim=-1)[0, piece])
    return torch.stack(found)


def embedded_inputs(model: Seq2Seq) -> tuple[Tensor, Tensor]:
    scale = math.sqrt(model.config.embedding)
    source = torch.tensor([*SOURCE, model.config.eos])
    target = torch.tensor([model.config.bos, *TARGET])
    return model.target_embedding(source) * scale, model.target_embedding(target) * scale


@pytest.mark.parametrize("choices", [{}, {"input_feeding": True}, {"cell": "rnn"}, {"attention": "additive"}])
def test_gradients_of_the_full_model_equal_those_of_single_steps(choices: dict[str, object]) -> None:
    model = lively_model(**choices)
    explained = explain(model, SOURCE, TARGET)
    inputs = [part.requires_grad_() for part in embedded_inputs(model)]
    rows = [torch.autograd.grad(loss, inputs, retain_graph=True) for loss in losses(model, *inputs)]
    for side, norms in enumerate((explained.source_gradients, explained.target_gradients)):
        expected = torch.stack([row[side].norm(dim=1) for row in rows])
        torch.testing.assert_close(norms, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("side", "position"), [(0, 3), (1, 1)])
def test_gradients_of_the_full_model_equal_finite_differences(side: int, position: int) -> None:
    model = lively_model()
    explained = explain(model, SOURCE, TARGET)
    inputs, shift = embedded_inputs(model), 1e-2  # attention's softmax is in single precision
    squares = torch.zeros(5, dtype=torch.float64)
    for unit in range(model.config.embedding):
        ends = []
        for direction in (shift, -shift):
            moved = [part.clone() for part in inputs]
            moved[side][position, unit] += direction
            ends.append(losses(model, *moved))
        squares += ((ends[0] - ends[1]) / (2 * shift)).square()
    norms = (explained.source_gradients, explained.target_gradients)[side][:, position]
    torch.testing.assert_close(norms, squares.sqrt(), rtol=2e-3, atol=1e-4)


def test_no_loss_depends_on_a_later_target_piece() -> None:
    gradients = explain(lively_model(), SOURCE, TARGET).target_gradients
    assert gradients.triu(1).eq(0).all()
    assert gradients.tril().count_nonzero() == 15


def test_single_precision_agrees_with_double() -> None:
    single, double = (explain(lively_model(dtype), SOURCE, TARGET) for dtype in (torch.float32, torch.float64))
    torch.testing.assert_close(single.target_gradients, double.target_gradients, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(single.source_gradients, double.source_gradients, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(single.layers[1].recurrence, double.layers[1].recurrence, rtol=1e-3, atol=1e-6)


def test_attention_and_probabilities_are_those_of_annotate() -> None:
    model = lively_model()
    explained = explain(model, SOURCE, TARGET)
    (annotation,) = annotate(model, [SOURCE], [TARGET])
    assert explained.attention.tolist() == [pytest.approx(row) for row in annotation.attention]
    assert explained.log_probabilities.tolist() == pytest.approx(annotation.log_probabilities, rel=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_the_gradient_inside_a_decoder_layer_is_the_norm_of_its_jacobian(cell: str) -> None:
    model = lively_model(cell=cell, decoder_layers=1)
    layer = model.decoder.layers[0]
    _, target = embedded_inputs(model)
    source = torch.tensor([[*SOURCE, model.config.eos]])
    (start,) = model.start(model.encode(source, torch.tensor([6]))).cells

    def unroll(inputs: Tensor) -> Tensor:
        output, _ = layer(inputs.unsqueeze(1), start)
        hidden: Tensor = output.squeeze(1)
        return hidden

    jacobian = torch.autograd.functional.jacobian(unroll, target)  # (T, H, T, E)
    found = explain(model, SOURCE, TARGET).layer("decoder.1").recurrence
    torch.testing.assert_close(found, jacobian.square().sum(dim=(1, 3)).sqrt(), rtol=1e-6, atol=1e-12)


def test_a_backward_layer_depends_on_what_follows_it_in_the_text() -> None:
    model = lively_model(encoder_layers=1)
    layer = model.encoder.layers[0].backward_layer
    source, _ = embedded_inputs(model)

    def unroll(inputs: Tensor) -> Tensor:
        output, _ = layer(inputs.flip(0).unsqueeze(1), layer.start(1))
        hidden: Tensor = output.squeeze(1).flip(0)
        return hidden

    jacobian = torch.autograd.functional.jacobian(unroll, source)
    found = explain(model, SOURCE, TARGET).layer("encoder.1.backward")
    torch.testing.assert_close(found.recurrence, jacobian.square().sum(dim=(1, 3)).sqrt(), rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(found.hidden, unroll(source))
    assert found.recurrence.tril(-1).eq(0).all()
    assert found.reach.curve[0] == 1
    assert 0 < found.reach.curve[-1] < 1


def test_fewer_directions_estimate_the_same_norm() -> None:
    model = lively_model(hidden=48)
    exact, estimate = (explain(model, SOURCE, TARGET, directions).layer("decoder.1") for directions in (48, 24))
    assert not torch.equal(exact.recurrence, estimate.recurrence)
    torch.testing.assert_close(estimate.recurrence, exact.recurrence, rtol=0.35, atol=0)


def test_gates_of_an_lstm_equal_their_equations_in_numpy() -> None:
    model = lively_model(encoder_layers=1)
    layer = model.encoder.layers[0].forward_layer
    weight_ih, weight_hh, bias = (part.numpy() for part in (layer.weight_ih, layer.weight_hh, layer.bias))
    hidden = cell = np.zeros(4)
    gates: dict[str, list[np.ndarray]] = {"input": [], "forget": [], "output": []}
    for position in embedded_inputs(model)[0].numpy():
        i, f, g, o = np.split(weight_ih @ position + weight_hh @ hidden + bias, 4)
        i, f, o = (1 / (1 + np.exp(-part)) for part in (i, f, o))
        cell = f * cell + i * np.tanh(g)
        hidden = o * np.tanh(cell)
        for name, values in (("input", i), ("forget", f), ("output", o)):
            gates[name].append(values)
    found = explain(model, SOURCE, TARGET).layer("encoder.1.forward")
    assert found.gates.keys() == gates.keys()
    for name, values in gates.items():
        np.testing.assert_allclose(found.gates[name].numpy(), np.stack(values), rtol=1e-9)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("input_feeding", [False, True])
def test_every_layer_is_shown_as_it_ran_in_the_model(cell: str, input_feeding: bool) -> None:
    model = lively_model(cell=cell, input_feeding=input_feeding)
    explained = explain(model, SOURCE, TARGET)
    assert [layer.name for layer in explained.layers] == layer_names(model)
    assert [len(layer.hidden) for layer in explained.layers] == [6, 6, 6, 6, 5, 5]
    source = torch.tensor([[*SOURCE, model.config.eos]])
    memory = model.encode(source, torch.tensor([6]))
    state = model.start(memory)
    for time, piece in enumerate([model.config.bos, *TARGET]):
        before = state
        _, state = model.step(state, torch.tensor([piece]), memory)
        for number, after in enumerate(state.cells, start=1):
            shown = explained.layer(f"decoder.{number}")
            torch.testing.assert_close(shown.hidden[time], after.hidden[0], rtol=1e-9, atol=1e-9)
        embedded = model.target_embedding(torch.tensor([piece])) * math.sqrt(model.config.embedding)
        fed = embedded if before.feed is None else torch.cat([embedded, before.feed], dim=-1)
        for name, values in model.decoder.layers[0].gates(fed, before.cells[0]).items():
            torch.testing.assert_close(explained.layer("decoder.1").gates[name][time], values[0])


def test_a_model_is_left_as_it_was_and_explained_alike_again() -> None:
    model = lively_model().train()
    kinds = [type(module) for module in model.modules()]
    first, second = (explain(model, SOURCE, TARGET) for _ in range(2))
    assert model.training
    assert [type(module) for module in model.modules()] == kinds
    assert torch.equal(first.target_gradients, second.target_gradients)
    assert torch.equal(first.layers[0].recurrence, second.layers[0].recurrence)


def test_a_plain_rnn_loses_its_gradient_where_an_lstm_with_open_gates_keeps_it() -> None:
    half = math.log(0.5)
    factors = {}
    for cell in ("rnn", "lstm"):
        model = lively_model(cell=cell, decoder_layers=1)
        layer = model.decoder.layers[0]
        layer.weight_hh.mul_(0).add_(torch.eye(8).repeat(len(layer.weight_hh) // 8, 1) * 0.5)
        if cell == "lstm":
            layer.bias[8:16] = 20.0  # the forget gate is open
        factors[cell] = explain(model, SOURCE, TARGET * 3).layer("decoder.1").reach.factor
    assert math.log(factors["rnn"]) <= half + 1e-6
    assert factors["lstm"] > 0.9


def test_an_empty_translation_is_explained_by_its_end() -> None:
    explained = explain(lively_model(), SOURCE, [])
    assert explained.attention.shape == (1, 6)
    assert explained.layer("decoder.1").reach == (torch.ones(1), None, None)


def test_an_empty_source_is_refused() -> None:
    with pytest.raises(ExplainError, match="no pieces"):
        explain(lively_model(), [], TARGET)


@pytest.mark.parametrize(("source", "target", "side"), [(LONGEST + 1, 3, "text"), (3, LONGEST + 1, "target")])
def test_a_side_too_long_to_be_shown_is_refused(source: int, target: int, side: str) -> None:
    with pytest.raises(ExplainError, match=f"the {side} has 201 pieces, of which at most 200"):
        explain(lively_model(), [5] * source, [5] * target)


def test_an_unknown_layer_is_answered_with_those_there_are() -> None:
    empty = torch.zeros(1, 1)
    with pytest.raises(ExplainError, match=r"no layer 'decoder\.9'"):
        Explanation(empty, empty, empty, empty, ()).layer("decoder.9")


def powers(factor: float, length: int) -> Tensor:
    """Norms that a position more multiplies by ``factor``; every row is of another size."""
    time = torch.arange(length, dtype=torch.float64)
    return (factor ** (time.unsqueeze(1) - time) * (time.unsqueeze(1) + 1)).tril()


def test_reach_finds_the_factor_and_the_half_distance_of_a_power() -> None:
    reach = Reach.of(powers(0.8, 12))
    assert reach.factor == pytest.approx(0.8)
    assert reach.half_distance == pytest.approx(math.log(0.5) / math.log(0.8))
    assert reach.at(5) == pytest.approx(0.8**5)
    assert reach.at(12) is None


def test_a_gradient_that_stays_has_no_half_distance() -> None:
    assert Reach.of(powers(1.0, 12)).half_distance is None


def test_a_position_without_a_gradient_says_nothing() -> None:
    norms = powers(0.8, 12)
    norms[5] = 0
    torch.testing.assert_close(Reach.of(norms).curve, Reach.of(powers(0.8, 12)).curve)


def test_a_gradient_below_single_precision_is_no_nan() -> None:
    reach = Reach.of(powers(1e-20, 4))
    assert reach.curve.isfinite().all()
    assert reach.half_distance == pytest.approx(math.log(2) / math.log(1e20))
