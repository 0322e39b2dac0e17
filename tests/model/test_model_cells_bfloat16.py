"""The fused LSTM under autocast on a CPU, where rows are filled up to whole blocks: near float32, gradients too."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.cells import build_cell
from model.cells.fused import BLOCK
from model.cells.layer import RecurrentLayer


def gradients(layer: RecurrentLayer, sequence: Tensor, outputs: Tensor) -> list[Tensor]:
    parameters = [sequence, *layer.parameters()]
    return list(torch.autograd.grad(outputs.float().square().sum(), parameters))


@pytest.mark.parametrize("rows", [1, BLOCK - 1, BLOCK, 3 * BLOCK + 13])
def test_autocast_on_a_cpu_stays_near_float32_for_any_number_of_rows(rows: int) -> None:
    torch.manual_seed(1)
    layer = build_cell("lstm", 24, 32, 0.0)
    sequence = torch.randn(9, rows, 24, requires_grad=True)
    exact, last = layer(sequence, layer.start(rows))
    wanted = gradients(layer, sequence, exact)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, after = layer(sequence, layer.start(rows))
    assert found.dtype == torch.bfloat16
    assert found.shape == exact.shape and after.hidden.shape == after.cell.shape == (rows, 32)
    torch.testing.assert_close(found.float(), exact, rtol=0.0, atol=0.03)
    torch.testing.assert_close(after.cell.float(), last.cell, rtol=0.0, atol=0.05)
    for gradient, other in zip(gradients(layer, sequence, found), wanted, strict=True):
        assert float((gradient - other).norm() / other.norm()) < 0.03
