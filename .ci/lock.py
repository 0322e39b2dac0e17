"""Print constraints.txt: the version pip chooses for every distribution that any extra of pyproject.toml needs.

pip resolves into an empty target (`--ignore-installed`) without installing, so what an environment happens to hold
does not leak into the lock. A build's local label is dropped (2.13.0+cpu becomes 2.13.0): the lock holds for the CPU
and the CUDA build of torch alike, and what only one of the builds pulls in is not pinned.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEAD = """\
# Exact versions for serving, training and development, on CPython 3.11, Linux x86-64.
# Made by a tool from pyproject.toml; do not edit. To make it anew: make lock
"""
# Only the CUDA build of torch brings these, in versions that it pins itself.
CUDA_ONLY = re.compile(r"nvidia-|cuda-|triton$")


def main() -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-"]
    report = subprocess.run([*command, f"{ROOT}[dev]"], check=True, stdout=subprocess.PIPE, text=True).stdout
    versions = dict(name_and_version(entry["metadata"]) for entry in json.loads(report)["install"])
    versions.pop("ferry-nmt")
    pins = sorted(f"{name}=={version}" for name, version in versions.items() if not CUDA_ONLY.match(name))
    sys.stdout.write(HEAD + "\n".join(pins) + "\n")


def name_and_version(metadata: dict[str, str]) -> tuple[str, str]:
    """Name as PEP 503 normalises it, version without the local label."""
    return re.sub(r"[-_.]+", "-", metadata["name"]).lower(), metadata["version"].split("+")[0]


if __name__ == "__main__":
    main()
