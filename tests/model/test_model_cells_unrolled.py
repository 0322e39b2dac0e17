"""The LSTM whose pass through time is written out: that of torch, and its gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.cells import build_cell
from model.cells.fused import UNROLLED_ROWS
from model.cells.unrolled import UnrolledLSTM

TIME, ROWS, INPUTS, HIDDEN = 6, 3, 5, 4


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64).requires_grad_()


@pytest.fixture
def tensors() -> list[Tensor]:
    """Sequence, both weights, bias, h and c."""
    torch.manual_seed(3)
    shapes = [(TIME, ROWS, INPUTS), (4 * HIDDEN, INPUTS), (4 * HIDDEN, HIDDEN), (4 * HIDDEN,)]
    return [drawn(*shape) for shape in [*shapes, (ROWS, HIDDEN), (ROWS, HIDDEN)]]


def unrolled(sequence: Tensor, inner: Tensor, recurrent: Tensor, bias: Tensor, *state: Tensor) -> tuple[Tensor, Tensor]:
    products = torch.nn.functional.linear(sequence, inner, bias)
    outputs, cell = UnrolledLSTM.apply(products, recurrent, *state)  # type: ignore[no-untyped-call]
    return outputs, cell


def test_outputs_and_gradients_are_those_of_torch(tensors: list[Tensor]) -> None:
    sequence, inner, recurrent, bias, *state = tensors
    weights = [inner, recurrent, bias, torch.zeros_like(bias)]
    begin = [part.unsqueeze(0) for part in state]
    expected, _, last = torch.lstm(sequence, begin, weights, True, 1, 0.0, True, False, False)
    found, cell = unrolled(*tensors)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(cell, last[0])
    weight = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weight).sum() + last.sum(), tensors)
    gradients = torch.autograd.grad((found * weight).sum() + cell.sum(), tensors)
    for gradient, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, other)


def test_autocast_takes_it_on_a_cpu_and_stays_near_float32() -> None:
    torch.manual_seed(1)
    rows = UNROLLED_ROWS
    layer = build_cell("lstm", 24, 32, 0.0)
    sequence = torch.randn(9, rows, 24, requires_grad=True)
    exact, last = layer(sequence, layer.start(rows))
    exact.sum().backward()
    assert sequence.grad is not None and layer.weight_hh.grad is not None
    wanted = [sequence.grad.clone(), layer.weight_hh.grad.clone()]
    sequence.grad = layer.weight_hh.grad = None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, after = layer(sequence, layer.start(rows))
    found.float().sum().backward()
    assert found.dtype == torch.bfloat16 and after.cell.dtype == torch.float32
    torch.testing.assert_close(found.float(), exact, rtol=0.0, atol=0.02)
    torch.testing.assert_close(after.cell, last.cell, rtol=0.0, atol=0.05)
    assert sequence.grad is not None and layer.weight_hh.grad is not None
    for gradient, other in zip([sequence.grad, layer.weight_hh.grad], wanted, strict=True):
        assert float((gradient - other).norm() / other.norm()) < 0.03
