"""Compiles the operators: ``python -m model.native.build`` for this machine, ``--all`` for every one of its kind.

It takes a C++20 compiler (``CXX``, or ``c++``) and torch's headers, which its wheel brings along, and half a minute. An
image compiles for all processors of its architecture, and its service picks the library at start.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from pathlib import Path

import torch
from torch.utils.cpp_extension import include_paths, library_paths

from model.native import FOLDER, SOURCES, library_file

# As torch compiles its own kernels for each of its capabilities.
FLAGS = {
    "AVX2": ["-mavx2", "-mfma", "-mf16c"],
    "AVX512": [
        "-mavx512f",
        "-mavx512bw",
        "-mavx512vl",
        "-mavx512dq",
        "-mavx2",
        "-mfma",
        "-mf16c",
        "-mamx-tile",
        "-mamx-int8",
    ],
    "DEFAULT": [],
}


class BuildError(Exception):
    """The operators could not be compiled; the message holds what the compiler said."""


def capabilities() -> tuple[str, ...]:
    """Those that processors of this architecture may have."""
    return ("AVX2", "AVX512") if platform.machine().lower() in {"x86_64", "amd64"} else ("DEFAULT",)


def build(capability: str) -> Path:
    """Compile the operators for ``capability``; returns the library's file. Those of other sources go.

    Raises BuildError.
    """
    target = library_file(capability)
    part = target.with_name(target.name + ".part")
    command = [
        *(os.environ.get("CXX", "c++"), "-std=c++20", "-O3", "-fPIC", "-shared", "-fvisibility=hidden"),
        *(f"-DCPU_CAPABILITY={capability}", f"-DCPU_CAPABILITY_{capability}", *FLAGS[capability]),
        *(f"-isystem{path}" for path in include_paths()),
        # Sums are fused with products where the source says so: elsewhere each compiler would choose for itself.
        *("-ffp-contract=off", "-fopenmp", "-Wall", str(SOURCES / "library.cpp"), "-o", str(part)),
        *(f"-L{path}" for path in library_paths()),  # loaded by then, so the library need not know where
        *("-ltorch_cpu", "-lc10"),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"no C++ compiler: {error}; install g++, or name one with CXX=...") from error
    if done.returncode:
        part.unlink(missing_ok=True)
        raise BuildError(f"{command[0]} failed for {capability}:\n{done.stderr.strip()}")
    part.replace(target)  # a service that starts meanwhile finds all of it or nothing
    for other in FOLDER.glob(f"ferry-*-{capability}*.so"):
        if other != target:
            other.unlink()
    return target


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m model.native.build", description=__doc__)
    parser.add_argument("--all", action="store_true", help="for all processors of this architecture, not for this one")
    mine = torch.backends.cpu.get_cpu_capability()
    chosen = capabilities() if parser.parse_args().all else (mine,)
    if mine not in FLAGS and chosen == (mine,):
        sys.exit(f"this processor has {mine}, for which there are no operators; plain torch does the same, slower")
    try:
        for capability in chosen:
            print(build(capability))
    except BuildError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
