"""Training speed beside OpenNMT-py: both at the same shape, on the same text, in turn, in one run.

python -m tests.bench.peers.bench_training_peers --environment /tmp/opennmt

Makes the environment if it is not there (OpenNMT-py from PyPI, without its demand for an older torch). Every source and
target has the same number of pieces, so that no batching is better than another. OpenNMT-py prints target tokens a
second for each step; the first steps, in which it fills its buckets, are left out.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import NamedTuple

import torch

from tests.bench import machine, shapes
from tests.bench.bench_training import training_step
from training.device import has_bfloat16

OPENNMT = "OpenNMT-py==3.5.1"
# What its training imports; torch is Ferry's own version, which it runs with though it asks for an older one.
NEEDED = [
    *("configargparse", "ctranslate2", "fasttext-wheel", "flask", "pyahocorasick", "pyonmttok", "pyyaml"),
    *("rapidfuzz", "sacrebleu", "six", "spacy", "tensorboard", "waitress"),
]
WARM_UP = 3


class Speed(NamedTuple):
    """Target tokens a second."""

    median: float
    fastest: float
    slowest: float

    def __str__(self) -> str:
        return f"{self.median:,.0f} ({self.slowest:,.0f} to {self.fastest:,.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shapes.add_shape(parser)
    parser.add_argument("--environment", type=Path, required=True, help="of OpenNMT-py; made if it is not there")
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--length", type=int, default=18, help="pieces of every source and target")
    parser.add_argument("--steps", type=int, default=6, help="measured, of each system in each round")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    prepare(arguments.environment)
    precisions = ("float32", "bfloat16") if has_bfloat16("cpu") else ("float32",)
    ours: dict[str, list[float]] = {precision: [] for precision in precisions}
    theirs: dict[str, list[float]] = {"input feeding (its default)": [], "no input feeding": []}
    for _ in range(arguments.rounds):
        for precision, speeds in ours.items():
            speeds += ferry(arguments, precision)
        for name, speeds in theirs.items():
            speeds += opennmt(arguments, input_feed=name != "no input feeding")
    print(machine.describe(), machine.load(), sep=", ")
    print(
        f"{shapes.describe(shapes.build(arguments))}; batch of {arguments.batch_tokens} tokens, pairs of length",
        end=" ",
    )
    print(f"{arguments.length}; median and range of {arguments.rounds * arguments.steps} steps")
    for precision, speeds in ours.items():
        print(f"Ferry, {precision}: {speed(speeds)} target tokens/s")
    for name, speeds in theirs.items():
        print(f"{OPENNMT}, {name}, float32: {speed(speeds)} target tokens/s", end="")
        for precision, found in ours.items():
            print(f"; Ferry in {precision} is {speed(found).median / speed(speeds).median:.1f} times as fast", end="")
        print()


def prepare(environment: Path) -> None:
    """Make the environment of OpenNMT-py."""
    if (environment / "bin" / "onmt_train").exists():
        return
    venv.create(environment, with_pip=True)
    pip = [environment / "bin" / "python", "-m", "pip", "install", "-q"]
    subprocess.run([*pip, f"torch=={torch.__version__.partition('+')[0]}", *NEEDED], check=True)
    subprocess.run([*pip, "--no-deps", OPENNMT], check=True)


def ferry(arguments: argparse.Namespace, precision: str) -> list[float]:
    """Target tokens a second of each step of Ferry's."""
    step, tokens = training_step(arguments, precision)
    speeds = []
    for _ in range(WARM_UP + arguments.steps):
        began = time.perf_counter()
        step()
        speeds.append(tokens / (time.perf_counter() - began))
    return speeds[WARM_UP:]


def opennmt(arguments: argparse.Namespace, *, input_feed: bool) -> list[float]:
    """Target tokens a second of each step of OpenNMT-py's, as it prints them."""
    steps = WARM_UP + arguments.steps
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pairs = (steps + 2) * arguments.batch_tokens // arguments.length
        write_text(folder, arguments, pairs)
        options = {
            "data": f"{{corpus: {{path_src: {folder}/source, path_tgt: {folder}/target}}}}",
            "src_vocab": f"{folder}/vocabulary",
            "share_vocab": "true",
            "save_model": f"{folder}/model",
            "encoder_type": "brnn",
            "decoder_type": "rnn",
            "rnn_type": "LSTM",
            "layers": arguments.layers,
            "hidden_size": arguments.hidden,
            "word_vec_size": arguments.embedding,
            "share_embeddings": "true",
            "share_decoder_embeddings": "true",
            "input_feed": int(input_feed),
            "batch_type": "tokens",
            "batch_size": arguments.batch_tokens,
            "bucket_size": pairs,
            "num_workers": 0,
            "dropout": "[0.2]",
            "label_smoothing": 0.1,
            "optim": "adam",
            "learning_rate": 0.001,
            "max_grad_norm": 1.0,
            "train_steps": steps,
            "report_every": 1,
            "save_checkpoint_steps": 100000,
            "seed": 1,
        }
        (folder / "train.yaml").write_text("".join(f"{key}: {value}\n" for key, value in options.items()))
        command = [arguments.environment / "bin" / "onmt_train", "-config", folder / "train.yaml"]
        environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads), "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(command, env=environment, text=True, capture_output=True)
    # Step 1/ 9; acc: 0.0; ppl: 8000.3; xent: 9.0; lr: 0.00100; sents: 227; bsz: 4086/4086/227; 613/613 tok/s; ...
    found = re.findall(r"Step +\d+/ +\d+;.*?; +[\d.]+/ *([\d.]+) tok/s", done.stdout + done.stderr)
    if len(found) != steps:
        sys.exit(f"OpenNMT-py printed {len(found)} of {steps} steps:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return [float(number) for number in found[WARM_UP:]]


def write_text(folder: Path, arguments: argparse.Namespace, pairs: int) -> None:
    """Random text of equal lengths: OpenNMT-py counts begin and end of sentence, which Ferry's length includes."""
    draw = random.Random(1)
    words = [f"w{number}" for number in range(arguments.vocabulary - 10)]
    for side, reserved in (("source", 0), ("target", 1)):
        lines = (" ".join(draw.choices(words, k=arguments.length - reserved)) for _ in range(pairs))
        (folder / side).write_text("\n".join(lines) + "\n")
    (folder / "vocabulary").write_text("".join(f"{word}\t1\n" for word in words))


def speed(values: list[float]) -> Speed:
    """Median and range."""
    return Speed(statistics.median(values), max(values), min(values))


if __name__ == "__main__":
    main()
