"""How much memory this process uses and may use, as Linux tells it; elsewhere as much of it as can be known."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

_PROC, _CGROUP = Path("/proc"), Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """Bytes that may still be allocated: of the machine, or of the control group if it has less; None if unknown."""
    known = [found for found in (_machine(), _control_group()) if found is not None]
    return min(known) if known else None


def resident_memory() -> int:
    """Bytes that this process holds in memory."""
    pages = _read(_PROC / "self" / "statm")
    return int(pages.split()[1]) * resource.getpagesize() if pages else peak_memory()


def reset_peak_memory() -> None:
    """Let ``peak_memory`` begin anew, where the system allows it."""
    try:
        (_PROC / "self" / "clear_refs").write_text("5")
    except OSError:  # then the peak is that of the whole process, an upper bound
        return


def peak_memory() -> int:
    """The most bytes that this process has held in memory since ``reset_peak_memory``."""
    for line in (_read(_PROC / "self" / "status") or "").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _machine() -> int | None:
    for line in (_read(_PROC / "meminfo") or "").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _control_group() -> int | None:
    """What is left under the limit of this process's control group, version 2 or 1; files in the cache can go."""
    for limit_name, used_name, statistics_name, folder in _control_files():
        limit, used = _read(folder / limit_name), _read(folder / used_name)
        if limit and used and limit.strip().isdigit():
            statistics = dict(line.split() for line in (_read(folder / statistics_name) or "").splitlines())
            cached = int(statistics.get("total_inactive_file", statistics.get("inactive_file", "0")))
            return int(limit) - int(used) + cached
    return None


def _control_files() -> list[tuple[str, str, str, Path]]:
    second = ("memory.max", "memory.current", "memory.stat")
    first = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat")
    folders: list[tuple[str, str, str, Path]] = []
    for line in (_read(_PROC / "self" / "cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            folders.append((*second, _CGROUP / path.lstrip("/")))
        elif "memory" in controllers.split(","):
            folders.append((*first, _CGROUP / "memory" / path.lstrip("/")))
    return [*folders, (*second, _CGROUP), (*first, _CGROUP / "memory")]


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None
