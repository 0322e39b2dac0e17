"""Under torchrun a rank is killed, and the group goes on from the last state as if nothing had been."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from test_system_resume import ROOT, kill_after, recipe, run, steps, write_text

RANKS = 2
OPTIONS = (
    "training.max_steps=40",
    "training.save_every=8",
    "training.validate_every=40",
    "training.preflight=false",
    "data.workers=1",
)


def torchrun(path: Path) -> subprocess.Popen[bytes]:
    """Two ranks on this machine, that may be started again."""
    starter = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}"]
    options = [word for option in OPTIONS for word in ("--set", option)]
    return subprocess.Popen(
        [*starter, "--max-restarts=3", "-m", "training", "fit", str(path), *options],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def rank_process(starter: subprocess.Popen[bytes], rank: int) -> int:
    """The process of a rank."""
    children = Path(f"/proc/{starter.pid}/task/{starter.pid}/children").read_text().split()
    for child in children:
        if f"RANK={rank}" in Path(f"/proc/{child}/environ").read_bytes().decode().split("\0"):
            return int(child)
    raise AssertionError(f"torchrun has no rank {rank} among its children {children}")


def finish(starter: subprocess.Popen[bytes]) -> str:
    output, _ = starter.communicate(timeout=240)
    assert starter.returncode == 0, output.decode()
    return output.decode()


def test_a_killed_rank_is_started_again_from_the_last_state(tmp_path: Path) -> None:
    write_text(tmp_path)
    whole, broken = recipe(tmp_path, "whole"), recipe(tmp_path, "broken")
    run("tokenizer", whole, "--set", "data.workers=1")
    shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    finish(torchrun(whole))

    starter = torchrun(broken)
    metrics = tmp_path / "broken" / "metrics.jsonl"
    kill_after(starter, metrics, 12, lambda: os.kill(rank_process(starter, 1), signal.SIGKILL))
    finish(starter)

    assert json.loads((tmp_path / "broken" / "fit.json").read_text())["steps"] == 40
    assert steps(metrics) == list(range(1, 41))
    same = "last.safetensors"
    assert (tmp_path / "broken" / same).read_bytes() == (tmp_path / "whole" / same).read_bytes()
