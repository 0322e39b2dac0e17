"""Whether a coverage penalty would pay: finished hypotheses ranked anew by what their attention has covered.

python -m tests.bench.bench_coverage CHECKPOINT --source FILE --reference FILE

The penalty is ``beta * sum_j log(min(sum_i p_ij, 1))`` over the source positions j (Wu et al. 2016, equation 14), added
to the score of each hypothesis in the beam; beta 0 is the search as it is. Attention comes from one teacher-forced
pass over the hypotheses, so nothing is pruned differently while searching: what this gains is what a larger beam could
hand to the penalty.
"""

from __future__ import annotations

import argparse
import itertools
import math
from pathlib import Path

import torch

from model.checkpoint import Checkpoint, load_checkpoint
from model.search import Annotation, Hypothesis, SearchOptions, annotate, translate
from tests.bench import machine
from tokenizer.subword import load_tokenizers
from training.evaluate import score
from training.reading import read_lines

BETAS = (0.0, 0.05, 0.1, 0.2, 0.4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--source", type=Path, required=True, help="text, a sentence a line, also .xz")
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--beam-size", type=int, default=10)
    parser.add_argument("--sentences", type=int, help="the first of the file; default: all")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    checkpoint, tokenizers = load_checkpoint(arguments.checkpoint), load_tokenizers(arguments.checkpoint)
    sources = [*itertools.islice(read_lines(arguments.source), arguments.sentences)]
    references = [*itertools.islice(read_lines(arguments.reference), arguments.sentences)]
    print(f"{machine.describe()}; {len(sources)} sentences, float32, beam {arguments.beam_size}")
    pieces = [tokenizers.source.encode(line) for line in sources]
    found = _search(checkpoint, pieces, arguments.beam_size)
    for beta in BETAS:
        chosen = [max(beam, key=lambda item, beta=beta: item[0].score + beta * item[1])[0] for beam in found]
        scores = score([tokenizers.target.decode(hypothesis.pieces) for hypothesis in chosen], references)
        changed = sum(beam[0][0] is not best for beam, best in zip(found, chosen, strict=True))
        print(f"beta {beta:<4}  BLEU {scores.bleu:.2f}  chrF2 {scores.chrf2:.2f}  {changed} sentences changed")


def _search(checkpoint: Checkpoint, sources: list[list[int]], beam_size: int) -> list[list[tuple[Hypothesis, float]]]:
    """The hypotheses of every sentence, best first, each with its coverage penalty for a beta of 1."""
    config = checkpoint.config
    options = SearchOptions(beam_size, beam_size, config.length_penalty)
    results = translate(checkpoint.model, sources, options, config.length_limit)
    found = []
    for source, hypotheses in zip(sources, results, strict=True):
        annotations = annotate(checkpoint.model, [source] * len(hypotheses), [item.pieces for item in hypotheses])
        found.append([*zip(hypotheses, map(_coverage, annotations), strict=True)])
    return found


def _coverage(annotation: Annotation) -> float:
    return sum(math.log(max(min(sum(column), 1.0), 1e-6)) for column in zip(*annotation.attention, strict=True))


if __name__ == "__main__":
    main()
