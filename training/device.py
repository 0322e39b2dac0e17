"""Where a run computes: the device of a recipe, and its description for the records."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


class DeviceError(Exception):
    """The device that was asked for is not there."""


def resolve_device(name: str) -> torch.device:
    """``cpu`` or ``cuda``; ``auto`` takes the GPU if there is one. Raises DeviceError for a GPU that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError("device is cuda, but torch sees no GPU; use device: auto or cpu, or the CUDA build of torch")
    return torch.device(name)


def describe_device(device: torch.device) -> str:
    """The processor's name, and for a CPU the number of threads that torch computes with."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.get_num_threads()} threads"


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
