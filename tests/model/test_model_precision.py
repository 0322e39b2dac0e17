"""A prepared model: the numbers of each precision, the law of batch invariance in each, and the choice of one."""

from __future__ import annotations

from functools import cache
from typing import get_args

import pytest
import torch
from tiny_models import LIMIT, alone, random_sources, run, tiny_model
from torch import Tensor

import model.precision
from model.cells import CELLS
from model.config import ModelConfig
from model.ensemble import Ensemble
from model.int8 import PlainKernel
from model.native import Operators, operators
from model.precision import Precision, PrecisionError, prepare, supported
from model.products import Bfloat16Product, Float32Product, Int8Pack
from model.search import BeamSearch, SearchOptions, annotate, translate
from model.seq2seq import Seq2Seq

SOURCE = torch.tensor([[5, 6, 7, 8, 3], [9, 4, 3, 0, 0], [3, 0, 0, 0, 0]])
LENGTHS = torch.tensor([5, 3, 1])
TARGET = torch.tensor([[2, 4, 5, 6, 7], [2, 9, 8, 1, 4], [2, 10, 11, 10, 5]])
BEAM = SearchOptions(beam_size=3, n_best=3)
TOLERANCE = {"float32": 1e-5, "bfloat16": 0.2, "int8": 0.6}  # of logits between about -5 and 5

pytestmark = pytest.mark.usefixtures("either_way")
every_precision = pytest.mark.parametrize("precision", get_args(Precision))
every_cell = pytest.mark.parametrize("cell", CELLS)


@cache
def trained(**choices: object) -> Seq2Seq:
    """A float32 model, as a checkpoint gives it."""
    return tiny_model(3, dtype=torch.float32, **choices)


def prepared(precision: Precision, **choices: object) -> Seq2Seq:
    return _prepared(operators(torch.device("cpu")), precision, **choices)


@cache
def _prepared(_with: Operators | None, precision: Precision, **choices: object) -> Seq2Seq:
    return prepare(trained(**choices), precision).model


def stepped(model: Seq2Seq) -> Tensor:
    """Logits (B, T, V) of TARGET, a piece at a time."""
    memory = model.encode(SOURCE, LENGTHS)
    state, logits = model.start(memory), []
    for token in TARGET.t():
        step, state = model.step(state, token, memory)
        logits.append(step)
    return torch.stack(logits, dim=1)


@every_precision
@every_cell
def test_logits_are_those_of_the_trained_model(precision: Precision, cell: str) -> None:
    expected = stepped(trained(cell=cell))
    found = stepped(prepared(precision, cell=cell))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=TOLERANCE[precision], rtol=1e-5)


@every_precision
@pytest.mark.parametrize("choices", [{"tied": "none", "attention": "additive"}, {"tied": "target", "attention": "dot"}])
@pytest.mark.parametrize("input_feeding", [False, True])
def test_every_choice_of_the_model_can_be_prepared(
    precision: Precision, choices: dict[str, object], input_feeding: bool
) -> None:
    more = {"self_attention": True, "lexical_shortcut": True, "decoder_layers": 3}
    choices = {**choices, **more, "input_feeding": input_feeding}
    found = stepped(prepared(precision, **choices))
    # What is rounded passes through four layers here, and is fed back.
    torch.testing.assert_close(found, stepped(trained(**choices)), atol=2 * TOLERANCE[precision], rtol=1e-5)


@every_precision
@every_cell
def test_the_teacher_forced_pass_equals_the_steps(precision: Precision, cell: str) -> None:
    model = prepared(precision, cell=cell)
    torch.testing.assert_close(model.logits(model(SOURCE, LENGTHS, TARGET)), stepped(model), atol=1e-5, rtol=1e-5)


@every_precision
@pytest.mark.parametrize("attention", ["multihead", "general", "dot"])
def test_a_sentence_alone_gets_the_very_scores_that_it_gets_among_others(precision: Precision, attention: str) -> None:
    """Not only the same texts: nothing that a row computes sees the batch or its padding.

    The widths are multiples of 16: what does not fill a vector is computed otherwise by torch's elementwise kernels.
    """
    model = prepared(precision, attention=attention, embedding=16, hidden=16)
    sources = random_sources(5, 12, longest=20)
    search = BeamSearch(model, LIMIT)
    tickets = search.admit(sources, [BEAM] * 11 + [SearchOptions(beam_size=6)])
    together = run(search)
    for ticket, source in zip(tickets[:11], sources, strict=False):
        assert together[ticket] == alone(model, source, BEAM)


@pytest.mark.parametrize("cell", ["gru", "layernorm_lstm", "ssru"])
def test_batch_mates_change_no_translation_in_int8_with_other_cells(cell: str) -> None:
    model = prepared("int8", cell=cell)
    sources = random_sources(6, 8, longest=12)
    together = translate(model, sources, BEAM, LIMIT)
    for source, found in zip(sources, together, strict=True):
        assert [item.pieces for item in found] == [item.pieces for item in alone(model, source, BEAM)]


def test_float32_translates_as_the_trained_model() -> None:
    sources = random_sources(4, 10)
    for found, expected in zip(
        translate(prepared("float32"), sources, BEAM, LIMIT), translate(trained(), sources, BEAM, LIMIT), strict=True
    ):
        assert [item.pieces for item in found] == [item.pieces for item in expected]
        assert [item.score for item in found] == pytest.approx([item.score for item in expected], abs=1e-5)


@every_precision
@pytest.mark.parametrize("tied", ["all", "none"])
def test_the_output_of_some_pieces_gives_their_logits(precision: Precision, tied: str) -> None:
    model = prepared(precision, tied=tied)
    features = torch.randn(4, model.config.embedding, generator=torch.Generator().manual_seed(1))
    pieces = torch.tensor([3, 7, 8])
    torch.testing.assert_close(model.rows(pieces)(features), model.logits(features)[:, pieces], atol=1e-5, rtol=1e-5)


@every_precision
def test_the_trained_model_stays_as_it_is(precision: Precision) -> None:
    model = tiny_model(8, dtype=torch.float32)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    logits = stepped(model)
    prepare(model, precision)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert torch.equal(stepped(model), logits)


@every_precision
def test_prepared_models_decode_as_an_ensemble(precision: Precision) -> None:
    members = [prepared(precision), prepared("float32", cell="gru", tied="none")]
    found = translate(Ensemble(members), random_sources(4, 4), BEAM, LIMIT)
    assert all(hypotheses for hypotheses in found)


def test_a_prepared_model_can_be_asked_for_what_it_thought() -> None:
    model, (source,) = prepared("int8"), random_sources(4, 1)
    (best, *_) = alone(model, source, BEAM)
    (annotation,) = annotate(model, [source], [best.pieces])
    assert sum(annotation.log_probabilities) == pytest.approx(best.log_probability, abs=1e-4)


def test_weights_of_a_float16_checkpoint_are_kept_in_two_bytes_for_lookup() -> None:
    model = tiny_model(1, dtype=torch.float16).float()
    assert prepare(model, "int8").model.target_embedding.weight.dtype == torch.float16
    assert prepared("int8").target_embedding.weight.dtype == torch.float32  # that would round these
    tokens = torch.arange(12)
    assert torch.equal(prepare(model, "int8").model.target_embedding(tokens), model.target_embedding(tokens))


def test_auto_takes_the_fastest_that_it_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"float32": 0.3, "bfloat16": 0.2, "int8": 0.1}
    order = iter(seconds.values())
    monkeypatch.setattr(model.precision, "supported", lambda _: get_args(Precision))
    monkeypatch.setattr(model.precision, "step_seconds", lambda _: next(order))
    found = prepare(trained(), "auto")
    assert (found.precision, found.measured) == ("int8", seconds)
    torch.testing.assert_close(stepped(found.model), stepped(prepared("int8")), atol=1e-4, rtol=1e-4)


def test_auto_measures_what_the_machine_supports() -> None:
    found = prepare(trained(), "auto")
    assert tuple(found.measured) == supported("cpu")
    assert all(seconds > 0 for seconds in found.measured.values())
    assert found.measured[found.precision] == min(found.measured.values())


def test_only_auto_measures() -> None:
    assert prepare(trained(), "float32").measured == {}


def test_a_processor_without_oneDNN_is_served_by_plain_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.packing.can_pack", lambda _: False)
    monkeypatch.setattr("model.products.can_pack", lambda _: False)
    torch.testing.assert_close(stepped(prepare(trained(), "float32").model), stepped(trained()), atol=1e-5, rtol=1e-5)


def test_an_unknown_precision_is_named_with_those_known() -> None:
    with pytest.raises(PrecisionError, match="'int4'; it must be auto, float32, bfloat16, int8"):
        prepare(trained(), "int4")  # type: ignore[arg-type]


def test_int8_is_refused_elsewhere_than_on_a_cpu() -> None:
    with torch.device("meta"):
        elsewhere = Seq2Seq(ModelConfig(source_vocabulary=9, target_vocabulary=9))
    with pytest.raises(PrecisionError, match="int8 needs a CPU, the model is on meta; use float32"):
        prepare(elsewhere, "int8")


def test_a_prepared_model_is_not_prepared_again() -> None:
    with pytest.raises(PrecisionError, match="prepared before"):
        prepare(prepared("int8"), "float32")


class TestProducts:
    """Each product beside its definition."""

    WEIGHT = torch.randn(16, 24, generator=torch.Generator().manual_seed(1))
    BIAS = torch.randn(16, generator=torch.Generator().manual_seed(2))
    INPUTS = torch.randn(3, 5, 24, generator=torch.Generator().manual_seed(3))

    def test_float32(self) -> None:
        expected = self.INPUTS @ self.WEIGHT.t() + self.BIAS
        torch.testing.assert_close(Float32Product(self.WEIGHT, self.BIAS)(self.INPUTS), expected)

    def test_bfloat16_rounds_its_operands_and_its_result(self) -> None:
        exact = self.INPUTS.bfloat16().double() @ self.WEIGHT.bfloat16().double().t()
        found = Bfloat16Product(self.WEIGHT, None)(self.INPUTS)
        torch.testing.assert_close(found.double(), exact, atol=1e-6, rtol=2**-8)
        assert torch.equal(found, found.bfloat16().float())

    def test_int8_errs_by_no_more_than_its_roundings(self) -> None:
        exact = self.INPUTS @ self.WEIGHT.t() + self.BIAS
        found = Int8Pack(PlainKernel)(self.WEIGHT, self.BIAS)(self.INPUTS)
        steps = self.INPUTS.abs().amax(-1, keepdim=True) / 127, self.WEIGHT.abs().amax(1) / 63
        one = steps[0] / 2 * self.WEIGHT.abs().sum(1)  # half a step of each activation, times its weight
        other = steps[1] / 2 * self.INPUTS.abs().sum(-1, keepdim=True)
        assert ((found - exact).abs() <= one + other + 24 * steps[0] * steps[1]).all()

    def test_int8_scales_each_row_by_itself(self) -> None:
        product = Int8Pack(PlainKernel)(self.WEIGHT, None)
        rows = self.INPUTS[0]
        torch.testing.assert_close(product(rows * 1000) / 1000, product(rows))
        loud = torch.cat([rows, rows * 1e6])
        assert torch.equal(product(loud)[:5], product(rows))

    def test_a_row_of_zeros_gives_the_bias_in_int8(self) -> None:
        product = Int8Pack(PlainKernel)(self.WEIGHT, self.BIAS)
        assert torch.equal(product(torch.zeros(1, 24)), self.BIAS.unsqueeze(0))
