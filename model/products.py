"""A matrix product ``W x + b`` of inference, its weights packed once: float32, bfloat16 or int8 behind one interface.

Inputs and outputs are float32 in every precision, so that what stands between two products is the same in all of them.
On a CPU each row's result is independent of the other rows, bit by bit (tests): oneDNN adds up in one order whatever
the number of rows, and integers have no order.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.int8 import KERNELS, FbgemmKernel, Kernel, PlainKernel, TileKernel, exact, one_thread, pack_weights
from model.native import operators

SMALLEST = 1e-30  # the scale of a row of zeros, in int8


class Pack(Protocol):
    """Weight (O, I) and bias (O) to a product x (..., I) -> (..., O)."""

    def __call__(self, weight: Tensor, bias: Tensor | None, gates: bool = False) -> nn.Module:
        """``gates`` says that the outputs are the four of an LSTM, which a kernel may keep side by side."""
        ...


class Float32Product(nn.Module):
    """The product in float32, by oneDNN with blocked weights on a CPU that has it."""

    def __init__(self, weight: Tensor, bias: Tensor | None, gates: bool = False) -> None:
        """``weight`` (O, I) and ``bias`` (O), of any floating type."""
        super().__init__()
        self.packed = can_pack(weight)
        self.weight = _blocked(weight.float()) if self.packed else weight.float().contiguous()
        self.bias = None if bias is None else bias.float()

    def forward(self, inputs: Tensor) -> Tensor:
        """``inputs`` (..., I), also float64, to (..., O) float32."""
        return _linear(inputs.float(), self.weight, self.bias, self.packed)


class Bfloat16Product(nn.Module):
    """The product of operands rounded to bfloat16; sums are float32 and the result is rounded to bfloat16.

    A CPU without units for it gets the same numbers, but for the order of the sums, from a float32 product of the
    rounded operands: no faster than float32, and there to try the precision out.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, gates: bool = False) -> None:
        """``weight`` (O, I) and ``bias`` (O), of any floating type."""
        super().__init__()
        rounded = weight.to(torch.bfloat16)
        self.units = has_bfloat16(weight.device)
        self.packed = can_pack(weight)
        operand = rounded if self.units else rounded.float()
        self.weight = _blocked(operand) if self.packed else operand.contiguous()
        self.bias = None if bias is None else bias.to(operand.dtype)

    def forward(self, inputs: Tensor) -> Tensor:
        """``inputs`` (..., I) float32 to (..., O) float32."""
        rounded = inputs.to(torch.bfloat16)
        if self.units:
            return _linear(rounded, self.weight, self.bias, self.packed).float()
        return _linear(rounded.float(), self.weight, self.bias, self.packed).to(torch.bfloat16).float()


class Int8Product(nn.Module):
    """The product of integers: weights scaled by output channel, activations by row, both symmetric about 0.

    ``W x = s_w s_x (Q_w q_x)`` with ``q_x = round(x / s_x)`` from -127 to 127 and ``s_x = max|x| / 127`` of the row,
    which makes the integer sums exact and independent of the batch.
    """

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None, kernel: Kernel, gates: bool = False) -> None:
        """Integers ``weight`` (O, I) int8 with a ``scale`` each (O) from :func:`model.int8.pack_weights`, ``bias`` (O).

        ``kernel`` is one of :mod:`model.int8`; for ``gates`` see :class:`Pack`.
        """
        super().__init__()
        self.outputs = weight.shape[0]
        product = kernel(weight, scale)
        self.bias = torch.zeros(self.outputs) if bias is None else bias.float()
        self.smallest = torch.tensor(SMALLEST)
        self.native = operators(weight.device)
        self.whole = (
            product.whole(self.bias, SMALLEST, gates) if isinstance(product, TileKernel | FbgemmKernel) else None
        )
        self.product = product if self.whole is None else None  # whose weights the whole holds

    def forward(self, inputs: Tensor) -> Tensor:
        """``inputs`` (..., I) float32 to (..., O) float32."""
        if self.whole is not None:
            return self.whole.multiply(inputs)
        assert self.product is not None, "there is one where there is no whole"
        rows = inputs.reshape(-1, inputs.shape[-1])  # (N, I)
        if self.native:
            scaled, scale = self.native.scale_rows(rows, SMALLEST)
            restored = self.native.restore_rows(self.product(scaled), scale, self.bias)
            return restored.view(*inputs.shape[:-1], self.outputs)
        scale = torch.add(self.smallest, rows.abs().amax(dim=1, keepdim=True), alpha=1 / 127)  # (N, 1)
        products = torch.addcmul(self.bias, self.product(rows * scale.reciprocal()), scale)  # (N, O)
        return products.view(*inputs.shape[:-1], self.outputs)


class Int8Pack(NamedTuple):
    """Packs products of int8."""

    kernel: Kernel

    def __call__(self, weight: Tensor, bias: Tensor | None, gates: bool = False) -> Int8Product:
        """As :class:`Pack` says."""
        return self.of_integers(*pack_weights(weight), bias, gates)

    def of_integers(self, weight: Tensor, scale: Tensor, bias: Tensor | None, gates: bool = False) -> Int8Product:
        """What has been made integers before."""
        return Int8Product(weight, scale, bias, self.kernel, gates)


def fastest_kernel(inputs: int, outputs: int, rows: Sequence[int], kernels: Sequence[Kernel] = KERNELS) -> Kernel:
    """The kernel that takes one thread the least time here at a product (inputs, outputs) of the numbers of ``rows``.

    What fails or is not exact is passed over; the plain kernel is always there.
    """
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(outputs, inputs, generator=generator)
    packed = pack_weights(weight)
    # Integers: next to a half FBGEMM, which adds the offset first, rounds to the other side, and would be passed over.
    samples = [(torch.randn(count, inputs, generator=generator) * 40).clamp_(-127, 127).round_() for count in rows]
    seconds: dict[Kernel, float] = {}
    for kernel in kernels:
        if exact(kernel, *packed, samples):
            product = Int8Product(*packed, None, kernel)
            with one_thread():
                seconds[kernel] = sum(math.log(_seconds(product, sample)) for sample in samples)
    return min(seconds, key=lambda kernel: seconds[kernel], default=PlainKernel)


def _seconds(product: Int8Product, sample: Tensor) -> float:
    times = []
    for _ in range(5):
        began = time.thread_time()  # not disturbed by what else runs here
        product(sample)
        times.append(time.thread_time() - began)
    return min(times)


def can_pack(weight: Tensor) -> bool:
    """Whether oneDNN is there to keep ``weight`` in blocks of its own."""
    return weight.device.type == "cpu" and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def has_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` multiplies bfloat16 by itself: AMX, AVX512-BF16, or a GPU that has it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    units = torch.cpu.get_capabilities()
    return bool(units.get("amx_bf16") or units.get("avx512_bf16"))


def _blocked(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), None)
    return packed


def _linear(inputs: Tensor, weight: Tensor, bias: Tensor | None, packed: bool) -> Tensor:
    if not packed:
        return functional.linear(inputs, weight, bias)
    products: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
    return products
