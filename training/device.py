"""Where a run computes and in which precision."""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple

import torch

from training.config import Recipe

# Kernels that oneDNN may keep: it compiles them anew for each shape of each product, thousands for batches of all
# lengths, and of the 1,024 that it keeps by itself it would compile many again and again.
COMPILED_SHAPES = "8192"


class DeviceError(Exception):
    """The recipe asks for hardware that is not there."""


class Device(NamedTuple):
    """A resolved device and precision."""

    name: str  # "cpu" or "cuda"
    bfloat16: bool

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The context of a training step's forward pass."""
        return torch.autocast(self.name, dtype=torch.bfloat16, enabled=self.bfloat16)

    @property
    def is_gpu(self) -> bool:
        """Whether the host queues work that the device does later."""
        return self.name == "cuda"

    def __str__(self) -> str:
        model = torch.cuda.get_device_name() if self.name == "cuda" else f"{torch.get_num_threads()} threads"
        return f"{self.name} ({model}), {'bfloat16' if self.bfloat16 else 'float32'}"


def resolve_device(recipe: Recipe) -> Device:
    """The device of a recipe; sets torch's threads. Raises DeviceError for what this machine does not have.

    Lets oneDNN keep its kernels, unless ``ONEDNN_PRIMITIVE_CACHE_CAPACITY`` says how many: it reads that once, before
    the first.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", COMPILED_SHAPES)
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    name = pick_device(recipe.device)
    able = has_bfloat16(name)
    if recipe.precision == "bfloat16" and not able:
        raise DeviceError(f"the recipe asks for precision: bfloat16, which this {name} lacks; use auto or float32")
    device = Device(name, able and recipe.precision != "float32")
    if device.is_gpu:
        # What autocast leaves in float32 may use the tensor cores as well; with precision: float32 nothing may.
        precision = "tf32" if device.bfloat16 else "ieee"
        torch.backends.cuda.matmul.fp32_precision = precision
        torch.backends.cudnn.rnn.fp32_precision = precision  # type: ignore[attr-defined]
    return device


def pick_device(name: str) -> str:
    """``cpu`` or ``cuda``; ``auto`` takes a GPU if there is one. Raises DeviceError for a GPU that is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError("device is cuda, but torch sees no GPU here; use auto or cpu")
    return name


def has_bfloat16(name: str) -> bool:
    """Whether LSTM layers run in bfloat16 on the device at speed; on a CPU that takes AVX512-BF16 or AMX."""
    if name == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
