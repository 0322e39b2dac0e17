"""A run killed at any moment goes on bit-equal to one that was never touched, through the real command."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]

RECIPE = """
name: resume
folder: {folder}
device: cpu
threads: 1
precision: float32
data:
  source: en
  target: de
  train: [{{source: {text}/train.en, target: {text}/train.de}}]
  dev: [{{source: {text}/dev.en, target: {text}/dev.de}}]
tokenizer: {{vocabulary_size: 280, sampling: {{variants: 2}}}}
model: {{embedding: 32, hidden: 32, dropout: 0.2, word_dropout: 0.1}}
training:
  batch_tokens: 300
  accumulate: 2
  max_steps: 60
  learning_rate: 0.005
  warmup_steps: 10
  validate_every: 25
  save_every: 10
  average_last: 2
  r_drop: 1.0
export: {{licence: CC0-1.0}}
"""


def write_text(folder: Path) -> None:
    """Pairs whose target is the source with its words in reverse order."""
    draw = random.Random(4)
    words = ["river", "ferry", "water", "deck", "captain", "rain", "rail", "side"]
    lines = [" ".join(draw.choices(words, k=draw.randint(2, 6))) for _ in range(900)]
    lines = list(dict.fromkeys(lines))
    for name, part in (("dev", lines[:20]), ("train", lines[20:])):
        (folder / f"{name}.en").write_text("".join(f"{line}\n" for line in part))
        (folder / f"{name}.de").write_text("".join(" ".join(reversed(line.split())) + "\n" for line in part))


def recipe(tmp_path: Path, name: str) -> Path:
    path = tmp_path / f"{name}.yaml"
    path.write_text(RECIPE.format(folder=tmp_path / name, text=tmp_path))
    return path


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "training.cli", *map(str, arguments)]


def start(*arguments: str | Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command(*arguments), cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def run(*arguments: str | Path) -> None:
    process = start(*arguments)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output.decode()


def steps(metrics: Path) -> list[int]:
    if not metrics.exists():
        return []
    entries = [json.loads(line) for line in metrics.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [entry["step"] for entry in entries if entry["kind"] == "step"]


def kill_after(process: subprocess.Popen[bytes], metrics: Path, step: int, kill: Callable[[], object]) -> None:
    """``kill`` as soon as ``step`` stands in the metrics, in the midst of what the run does next."""
    deadline = time.monotonic() + 240
    while not (taken := steps(metrics)) or taken[-1] < step:
        assert process.poll() is None, process.communicate()[0].decode()
        assert time.monotonic() < deadline, "the run takes no steps"
        time.sleep(0.01)
    kill()


def test_a_killed_run_resumes_bit_equal(tmp_path: Path) -> None:
    write_text(tmp_path)
    whole, broken = recipe(tmp_path, "whole"), recipe(tmp_path, "broken")
    for path in (whole, broken):
        run("tokenizer", path)
    run("fit", whole)

    killed = start("fit", broken)
    kill_after(killed, tmp_path / "broken" / "metrics.jsonl", 14, killed.kill)
    assert killed.wait(60) == -signal.SIGKILL
    refused = start("fit", broken)
    assert "--resume" in refused.communicate(timeout=60)[0].decode()
    assert refused.returncode == 1
    terminated = start("fit", broken, "--resume")
    kill_after(terminated, tmp_path / "broken" / "metrics.jsonl", 33, terminated.terminate)
    output, _ = terminated.communicate(timeout=60)
    assert terminated.returncode == 130, output.decode()
    run("fit", broken, "--resume")

    for name in ("last.safetensors", "best.safetensors"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    taken = steps(tmp_path / "broken" / "metrics.jsonl")
    assert taken == steps(tmp_path / "whole" / "metrics.jsonl")
    assert taken == sorted(set(taken))
