"""The fused LSTM under autocast on a CPU, by the operators in C++ and by oneDNN: near float32, gradients too."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.cells import build_cell
from model.cells.fused import BLOCK
from model.cells.layer import CellState, RecurrentLayer

TIME, INPUTS = 9, 24


def passed(
    layer: RecurrentLayer, sequence: Tensor, hidden: Tensor, cell: Tensor, weights: Tensor
) -> tuple[Tensor, CellState, list[Tensor]]:
    """Outputs, last state, and gradients for sequence, state and weights of a sum over all that comes out."""
    output, last = layer(sequence, CellState(hidden, cell))
    loss = (output.float() * weights).sum() + last.hidden.float().square().sum() + last.cell.float().square().sum()
    return output, last, list(torch.autograd.grad(loss, [sequence, hidden, cell, *layer.parameters()]))


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("rows", [1, BLOCK - 1, BLOCK, 3 * BLOCK + 13])
@pytest.mark.parametrize("hidden", [7, 32, 45])
def test_autocast_on_a_cpu_stays_near_float32_for_any_number_of_rows(rows: int, hidden: int) -> None:
    torch.manual_seed(1)
    layer = build_cell("lstm", INPUTS, hidden, 0.0)
    given = [torch.randn(TIME, rows, INPUTS), *(torch.randn(rows, hidden) / 2 for _ in range(2))]
    for tensor in given:
        tensor.requires_grad_()
    weights = torch.randn(TIME, rows, hidden)
    exact, last, wanted = passed(layer, *given, weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, after, gradients = passed(layer, *given, weights)
    assert found.dtype == torch.bfloat16
    assert found.shape == exact.shape and after.hidden.shape == after.cell.shape == (rows, hidden)
    torch.testing.assert_close(found.float(), exact, rtol=0.0, atol=0.03)
    torch.testing.assert_close(after.hidden.float(), last.hidden, rtol=0.0, atol=0.03)
    torch.testing.assert_close(after.cell.float(), last.cell, rtol=0.0, atol=0.05)
    for gradient, other in zip(gradients, wanted, strict=True):
        assert gradient.dtype == torch.float32
        assert float((gradient - other).norm() / other.norm()) < 0.03


@pytest.mark.usefixtures("either_way")
def test_a_layer_over_inputs_that_need_no_gradient_learns_all_the_same() -> None:
    """As does one whose recurrent weights are frozen."""
    torch.manual_seed(2)
    layer = build_cell("lstm", INPUTS, 16)
    layer.weight_hh.requires_grad_(False)
    sequence = torch.randn(TIME, 5, INPUTS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, _ = layer(sequence, layer.start(5))
    output.float().sum().backward()
    exact, _ = layer(sequence, layer.start(5))
    (expected,) = torch.autograd.grad(exact.sum(), [layer.weight_ih])
    assert layer.weight_hh.grad is None
    assert float((layer.weight_ih.grad - expected).norm() / expected.norm()) < 0.03


def test_going_back_twice_gives_the_same(operators: object) -> None:
    """What one pass back reads is not overwritten by it."""
    layer = build_cell("lstm", INPUTS, 16)
    sequence = torch.randn(TIME, 5, INPUTS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = layer(sequence, layer.start(5))[0].float().square().sum()
    first = torch.autograd.grad(loss, list(layer.parameters()), retain_graph=True)
    again = torch.autograd.grad(loss, list(layer.parameters()))
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
