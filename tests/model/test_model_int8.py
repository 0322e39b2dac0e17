"""Kernels of int8 products: exact integers, rows that know nothing of each other, and the choice among kernels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.int8 import KERNELS, Kernel, PlainKernel, pack_weights
from model.products import fastest_kernel

INPUTS, OUTPUTS = 70, 24


def integers(largest: int, *shape: int, seed: int = 1) -> Tensor:
    """Integers up to ``largest`` in size, float32; those of the first row are all as large as may be."""
    found = torch.randint(-largest, largest + 1, shape, generator=torch.Generator().manual_seed(seed)).float()
    found[0] = largest
    return found


def runs(kernel: Kernel) -> bool:
    """Whether this processor and this torch have what ``kernel`` calls."""
    try:
        kernel(torch.ones(4, 4, dtype=torch.int8), torch.ones(4))(torch.ones(1, 4))
    except (RuntimeError, AttributeError):
        return False
    return True


every_kernel = pytest.mark.parametrize("kernel", [kernel for kernel in (*KERNELS, PlainKernel) if runs(kernel)])


@every_kernel
@pytest.mark.parametrize("count", [1, 9, 64])  # oneDNN has an algorithm for few rows and another for many
def test_products_are_those_of_the_integers(kernel: Kernel, count: int) -> None:
    """Also where all are as large as may be, which eight bits on both sides would overflow on AVX2."""
    weight, rows, scale = integers(63, OUTPUTS, INPUTS), integers(127, count, INPUTS), torch.rand(OUTPUTS) + 0.5
    exact = (rows.double() @ weight.double().t()) * scale.double()
    found = kernel(weight.to(torch.int8), scale)(rows)
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=0.5)


@every_kernel
def test_rows_are_rounded(kernel: Kernel) -> None:
    weight, rows = integers(63, OUTPUTS, INPUTS).to(torch.int8), integers(126, 9, INPUTS)
    product = kernel(weight, torch.ones(OUTPUTS))
    torch.testing.assert_close(product(rows + 0.4), product(rows), rtol=1e-6, atol=0.5)


@every_kernel
@pytest.mark.parametrize("count", [1, 5, 33])
def test_a_row_does_not_depend_on_the_others(kernel: Kernel, count: int) -> None:
    product = kernel(integers(63, OUTPUTS, INPUTS).to(torch.int8), torch.rand(OUTPUTS))
    rows = integers(127, 40, INPUTS)
    assert torch.equal(product(rows[:count].contiguous()), product(rows)[:count])


def test_each_channel_has_its_own_scale() -> None:
    weight = torch.randn(6, 50, generator=torch.Generator().manual_seed(2)) * torch.logspace(-3, 3, 6).unsqueeze(1)
    packed, scale = pack_weights(weight)
    assert packed.abs().amax(dim=1).tolist() == [63] * 6
    assert ((packed * scale.unsqueeze(1) - weight).abs() <= scale.unsqueeze(1) * 0.5001).all()


def test_a_channel_of_zeros_stays_zero() -> None:
    packed, scale = pack_weights(torch.zeros(2, 8))
    assert not packed.any() and scale.isfinite().all()


class Failing:
    """A kernel that this processor has not."""

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        raise RuntimeError("no such unit")


class Overflowing(PlainKernel):
    """A kernel that is fast and wrong."""

    def __call__(self, rows: Tensor) -> Tensor:
        return rows.new_ones(len(rows), len(self.scale))


@every_kernel
@pytest.mark.parametrize("hidden", [256, 320, 384, 448, 512])
def test_a_kernel_that_runs_here_is_right_at_every_width(kernel: Kernel, hidden: int) -> None:
    assert fastest_kernel(2 * hidden, 4 * hidden, (5, 160), [kernel]) is kernel


def test_a_kernel_that_fails_is_passed_over() -> None:
    assert fastest_kernel(INPUTS, OUTPUTS, (3,), [Failing]) is PlainKernel


def test_a_kernel_that_is_wrong_is_passed_over() -> None:
    assert fastest_kernel(INPUTS, OUTPUTS, (3,), [Overflowing]) is PlainKernel


def test_one_that_is_right_is_taken() -> None:
    class Right(PlainKernel):
        pass

    assert fastest_kernel(INPUTS, OUTPUTS, (3,), [Failing, Right, Overflowing]) is Right
