"""Kernels for products of int8: rows that hold integers from -127 to 127 times weights from -63 to 63.

Weights have seven bits because processors with AVX2 alone add two products of bytes in 16 bits, where eight bits each
would overflow: so every kernel gives the same integers on every processor. Activations keep eight.

A kernel is made of the integer weights and the scales of their channels, and maps rows (N, I), float32, which it
rounds, to ``scale * (Q_w q_x)`` (N, O) float32.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from model.native import NativeInt8Product, operators

LARGEST_WEIGHT = 63
OFFSET = 128  # the kernels want activations without a sign

Product: TypeAlias = Callable[[Tensor], Tensor]
Kernel: TypeAlias = Callable[[Tensor, Tensor], Product]


def pack_weights(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Integers (O, I) int8 and scales (O) float32 of ``weight`` (O, I): its channels' largest become 63."""
    exact = weight.detach().float()
    scale = (exact.abs().amax(dim=1) / LARGEST_WEIGHT).clamp_min(1e-30)
    return (exact / scale.unsqueeze(1)).round_().to(torch.int8), scale


class TileKernel:
    """Operators of our own, by AMX, AVX512-VNNI, AVX-512 or AVX2: see ``model/native/tiles.h``.

    RuntimeError where there are none.
    """

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        native = operators(weight.device)
        self.unit = "plain" if native is None else native.int8_units()[0]
        if native is None or self.unit == "plain":
            raise RuntimeError("this processor has none of those units, or the operators are not built")
        self.weight, self.scale, self.native = weight, scale, native

    def __call__(self, rows: Tensor) -> Tensor:
        """As the module says."""
        return self._alone.multiply_integers(rows)

    def whole(self, bias: Tensor, smallest: float, gates: bool) -> NativeInt8Product:
        """The product with all that belongs to it as one operator."""
        return self.native.int8_by_tiles(self.weight, self.scale, bias, smallest, gates, self.unit)

    @cached_property
    def _alone(self) -> NativeInt8Product:
        return self.whole(torch.zeros_like(self.scale), 0.0, False)


class FbgemmKernel:
    """FBGEMM, on x86: the faster one for few rows; AVX2, AVX-512 and its VNNI.

    It is reached through torch's quantized tensors, which a later torch will not have.
    """

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        zero = torch.zeros(len(scale), dtype=torch.int64)
        with _engine("fbgemm"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)  # that they are deprecated
            quantized = torch._make_per_channel_quantized_tensor(weight, scale.double(), zero, 0)
            self.packed = torch.ops.quantized.linear_prepack(quantized, None)

    def __call__(self, rows: Tensor) -> Tensor:
        """As the module says."""
        multiply = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
        products: Tensor = multiply(rows, 1.0, OFFSET, self.packed)
        return products

    def whole(self, bias: Tensor, smallest: float, _gates: bool) -> NativeInt8Product | None:
        """The product with all that belongs to it as one operator, where there are operators."""
        native = operators(bias.device)
        return native and native.int8_by_fbgemm(self.packed, bias, smallest)


class OneDnnKernel:
    """oneDNN, which also has AMX."""

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        self.packed = torch.ops.onednn.qlinear_prepack(weight, None)
        self.scale, self.zero = scale, torch.zeros(len(scale), dtype=torch.int64)
        # Told of the offset, oneDNN would compute this sum in every call.
        self.correction = -OFFSET * scale * weight.sum(dim=1)

    def __call__(self, rows: Tensor) -> Tensor:
        """As the module says."""
        integers = rows.round().add_(OFFSET).to(torch.uint8)
        weights = (self.packed, self.scale, self.zero, self.correction)
        multiply = torch.ops.onednn.qlinear_pointwise
        products: Tensor = multiply(integers, 1.0, 0, *weights, 1.0, 0, torch.float32, "none", [], "")
        return products


class PlainKernel:
    """A float32 product of the integers, for processors without the others: exact while no sum reaches 2^24."""

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        self.weight, self.scale = weight.float(), scale

    def __call__(self, rows: Tensor) -> Tensor:
        """As the module says."""
        return functional.linear(rows.round(), self.weight) * self.scale


KERNELS: tuple[Kernel, ...] = (TileKernel, FbgemmKernel, OneDnnKernel)


def exact(kernel: Kernel, weight: Tensor, scale: Tensor, samples: Sequence[Tensor]) -> bool:
    """Whether ``kernel`` gives the plain kernel's products of ``samples`` (N, I), which hold integers; a few channels
    stand for all. One that the processor, or torch, does not have is not exact."""
    few = slice(0, 64)
    plain = PlainKernel(weight[few], scale[few])
    try:
        product = kernel(weight, scale)
        return all(_agree(product(sample)[:, few], plain(sample)) for sample in samples)
    except (RuntimeError, AttributeError):
        return False


def _agree(found: Tensor, expected: Tensor) -> bool:
    """To float32's precision."""
    return torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes with the calling thread alone."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _engine(name: str) -> Iterator[None]:
    """``name`` as the engine that packs quantized weights."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = name
    try:
        yield
    finally:
        torch.backends.quantized.engine = before
