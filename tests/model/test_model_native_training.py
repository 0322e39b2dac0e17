"""The operators in C++ of training: each gives what plain torch gives."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from model.cells.fused import LSTMLayer
from model.cells.layer import CellState
from model.native import Operators

# Pieces: fewer than a vector holds, whole vectors of float32 or bfloat16, and some and a rest.
every_vocabulary = pytest.mark.parametrize("vocabulary", [1, 13, 16, 32, 48, 1000])
every_type = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


@every_vocabulary
@every_type
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("count", [1, 300])
def test_the_loss_and_its_gradient_are_those_of_torch(
    operators: Operators, vocabulary: int, dtype: torch.dtype, smoothing: float, count: int
) -> None:
    torch.manual_seed(1)
    logits, targets = (torch.randn(count, vocabulary) * 5).to(dtype), torch.randint(vocabulary, (count,))
    wide = logits.float().requires_grad_()
    each = functional.cross_entropy(wide, targets, reduction="none", label_smoothing=smoothing)
    (gradient,) = torch.autograd.grad(each.sum(), wide)
    nll = functional.cross_entropy(wide, targets, reduction="none").detach()
    losses, columns = operators.cross_entropy(logits, targets, smoothing)
    torch.testing.assert_close(losses[:, 0], nll, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close((1 - smoothing) * losses[:, 0] + smoothing * losses[:, 1], each, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(columns, gradient.sum(dim=0), atol=1e-4, rtol=1e-5)
    exact = dtype == torch.float32
    torch.testing.assert_close(logits.float(), gradient, atol=1e-6 if exact else 1e-5, rtol=1e-5 if exact else 2**-8)


@every_type
def test_very_large_logits_leave_no_more_than_one(operators: Operators, dtype: torch.dtype) -> None:
    logits = torch.tensor([[1e30, -1e30, 0.0], [-1e4, 3e4, 3e4]]).to(dtype)
    losses, _ = operators.cross_entropy(logits, torch.tensor([0, 0]), 0.0)
    assert logits.tolist() == [[0.0, 0.0, 0.0], [-1.0, 0.5, 0.5]]
    assert losses[0, 0] == 0
    assert losses[1, 0] == pytest.approx(4e4 + math.log(2), rel=0.01)


@every_type
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_what_is_not_finite_is_not_hidden(operators: Operators, dtype: torch.dtype, wrong: float) -> None:
    """A step of training is skipped for it."""
    logits = torch.zeros(3, 40).to(dtype)
    logits[1, 7] = wrong
    losses, columns = operators.cross_entropy(logits, torch.tensor([0, 1, 2]), 0.1)
    assert losses[:, 0].isfinite().tolist() == [True, False, True]
    assert not columns.isfinite().all()


@every_type
@pytest.mark.parametrize("vocabulary", [1, 5, 16, 31, 32, 33, 700])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("factor", [0.0, 0.5, 2.5])
def test_two_passes_are_drawn_together_as_in_the_paper(
    operators: Operators, dtype: torch.dtype, vocabulary: int, smoothing: float, factor: float
) -> None:
    torch.manual_seed(2)
    logits, targets = (torch.randn(2 * 9, vocabulary) * 3).to(dtype), torch.randint(vocabulary, (9,))
    wide = logits.float().requires_grad_()
    first, second = wide.log_softmax(dim=1).chunk(2)
    divergence = ((first.exp() - second.exp()) * (first - second)).sum(dim=1)
    each = functional.cross_entropy(wide, targets.repeat(2), reduction="none", label_smoothing=smoothing)
    (gradient,) = torch.autograd.grad(each.sum() + factor * divergence.sum(), wide)
    nll = functional.cross_entropy(wide, targets.repeat(2), reduction="none").detach().view(2, -1).sum(dim=0)

    losses, columns = operators.cross_entropy_and_divergence(logits, targets, smoothing, factor)
    torch.testing.assert_close(losses[:, 0], nll, atol=1e-5, rtol=1e-5)
    smoothed = (1 - smoothing) * losses[:, 0] + smoothing * losses[:, 1]
    torch.testing.assert_close(smoothed, each.view(2, -1).sum(dim=0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(losses[:, 2], divergence, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(columns, gradient.sum(dim=0), atol=1e-4, rtol=1e-5)
    exact = dtype == torch.float32
    torch.testing.assert_close(logits.float(), gradient, atol=1e-5, rtol=1e-5 if exact else 2**-8)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_two_passes_need_two_rows_for_each_target(operators: Operators, count: int) -> None:
    with pytest.raises(RuntimeError, match="two rows of logits for each target"):
        operators.cross_entropy_and_divergence(torch.zeros(count, 5), torch.tensor([1, 2]), 0.1, 1.0)


@every_type
def test_a_divergence_that_is_not_finite_is_not_hidden(operators: Operators, dtype: torch.dtype) -> None:
    logits = torch.zeros(4, 40).to(dtype)
    logits[3, 7] = math.nan
    losses, columns = operators.cross_entropy_and_divergence(logits, torch.tensor([0, 1]), 0.1, 1.0)
    assert losses[:, 2].isfinite().tolist() == [True, False]
    assert not columns.isfinite().all()


@pytest.mark.parametrize("target", [-1, 5])
def test_a_target_beyond_the_pieces_is_an_error(operators: Operators, target: int) -> None:
    with pytest.raises(RuntimeError, match=f"a target is no piece: {target}"):
        operators.cross_entropy(torch.zeros(2, 5), torch.tensor([1, target]), 0.1)


def test_logits_of_other_types_are_refused(operators: Operators) -> None:
    with pytest.raises(RuntimeError, match="float32 or bfloat16"):
        operators.cross_entropy(torch.zeros(2, 5, dtype=torch.float64), torch.tensor([1, 2]), 0.1)


def sequence_of(units: int, rows: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Products, recurrent weights and a state, rounded as the operators want them."""
    torch.manual_seed(3)
    products, weight = torch.randn(6, rows, 4 * units) * 2, torch.randn(4 * units, units) / math.sqrt(units)
    hidden, cell = torch.randn(2, rows, units).unbind()
    return products.bfloat16(), weight.bfloat16(), hidden.bfloat16(), cell.contiguous()


@pytest.mark.parametrize("units", [1, 7, 16, 32, 45, 256])
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_a_sequence_is_that_of_the_layer_forwards_and_back(operators: Operators, units: int, rows: int) -> None:
    products, weight, hidden, cell = sequence_of(units, rows)
    given = [part.float().requires_grad_() for part in (products, hidden, cell)]
    layer, state, outputs = LSTMLayer(1, units), CellState(given[1], given[2]), []
    for position in given[0]:
        state = layer.advance(position + state.hidden @ weight.float().t(), state)
        outputs.append(state.hidden)
    weights, last = torch.randn(6, rows, units).bfloat16(), torch.randn(rows, units)
    expected = torch.autograd.grad([*outputs, state.cell], given, [*weights.float(), last])

    hiddens, cells = operators.lstm_sequence(products, weight, hidden, cell)
    assert torch.equal(hiddens[0], hidden) and torch.equal(cells[0], cell)
    torch.testing.assert_close(hiddens[1:].float(), torch.stack(outputs), atol=0.03, rtol=0)
    torch.testing.assert_close(cells[-1], state.cell, atol=0.05, rtol=0)
    gates = products.view(torch.float16)
    found = operators.lstm_sequence_backward(weights, last, weight, cells, gates)
    for gradient, reference in zip(found, expected, strict=True):
        assert float((gradient.float() - reference).norm() / reference.norm()) < 0.02


def test_the_activations_stand_in_place_of_the_products(operators: Operators) -> None:
    products, weight, hidden, cell = sequence_of(40, 3)
    first = products[0].float() + hidden.float() @ weight.float().t()
    operators.lstm_sequence(products, weight, hidden, cell)
    write, forget, candidate, read = first.chunk(4, dim=-1)
    expected = torch.cat([write.sigmoid(), forget.sigmoid(), candidate.tanh(), read.sigmoid()], dim=-1)
    torch.testing.assert_close(products.view(torch.float16)[0].float(), expected, atol=0.01, rtol=0)


def test_a_sequence_of_other_types_and_shapes_is_refused(operators: Operators) -> None:
    products, weight, hidden, cell = sequence_of(4, 3)
    with pytest.raises(RuntimeError, match="products must be"):
        operators.lstm_sequence(products.float(), weight, hidden, cell)
    with pytest.raises(RuntimeError, match="weight must be"):
        operators.lstm_sequence(products, weight[:8], hidden, cell)
    with pytest.raises(RuntimeError, match="cell must be"):
        operators.lstm_sequence(products, weight, hidden, cell.bfloat16())


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (8, 8), (9, 33), (40, 31), (7, 64), (64, 5), (200, 96)])
def test_a_matrix_is_turned_round(operators: Operators, rows: int, columns: int) -> None:
    matrix = torch.randn(rows, columns).bfloat16()
    assert torch.equal(operators.transposed(matrix), matrix.t())
