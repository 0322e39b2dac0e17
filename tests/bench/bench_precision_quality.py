"""What precision costs in quality: BLEU of the same model in each, and how many translations differ from float32's.

python -m tests.bench.bench_precision_quality --checkpoint app/checkpoints/en-de --source FILE --reference FILE

Files hold a sentence a line, and may end in .xz. Without bfloat16 units the bfloat16 figures come from the same
rounding in float32 products.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import get_args

import torch
from sacrebleu.metrics.bleu import BLEU

from model.precision import Precision, prepare
from model.seq2seq import Seq2Seq
from tests.bench import machine
from training.reading import read_lines
from training.system import open_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--precision", nargs="+", choices=get_args(Precision), default=list(get_args(Precision)))
    parser.add_argument("--sentences", type=int, help="the first of them only")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    references = list(itertools.islice(read_lines(arguments.reference), arguments.sentences))
    sources = list(itertools.islice(read_lines(arguments.source), len(references)))
    print(f"{machine.describe()}; {arguments.checkpoint}, {len(sources)} sentences")
    found: dict[str, list[str]] = {}
    for precision in arguments.precision:
        began = time.process_time()
        found[precision] = _translate(arguments.checkpoint, precision, sources)
        seconds = time.process_time() - began
        bleu = BLEU().corpus_score(found[precision], [references]).score
        baseline = found[arguments.precision[0]]
        other = sum(mine != first for mine, first in zip(found[precision], baseline, strict=True))
        beside = f"{other} translations other than in {arguments.precision[0]}"
        print(f"{precision}: BLEU {bleu:.2f}; {beside}; {seconds:.0f} s", flush=True)


def _translate(folder: Path, precision: Precision, sources: list[str]) -> list[str]:
    system = open_checkpoint(folder)
    assert isinstance(system.model, Seq2Seq)
    return system._replace(model=prepare(system.model, precision).model).translate(sources)


if __name__ == "__main__":
    main()
