"""Chooses beam size and length penalty on dev, where dev can tell them from the recipe's own."""

from __future__ import annotations

from collections.abc import Callable

from sacrebleu.metrics.bleu import BLEU

from training.config import Recipe, TuningConfig
from training.reading import read_all
from training.significance import compare_systems
from training.system import System


def tune(system: System, recipe: Recipe, grid: TuningConfig, message: Callable[[str], None]) -> System:
    """The system with the grid's best search options by cased BLEU on dev; of equals the smaller beam.

    Where they are not better than the options that it has, by paired bootstrap (:mod:`training.significance`), it stays
    as it is: on a thousand sentences chance explains most of what the pairs of a grid differ in, and the best of ten is
    chance's favourite.
    """
    pairs = read_all(recipe.data.dev)
    sources, references = [pair.source for pair in pairs], [pair.target for pair in pairs]

    def translated(candidate: System) -> tuple[list[str], float]:
        lines = candidate.translate(sources)
        score = BLEU().corpus_score(lines, [references]).score
        message(f"dev: {_described(candidate)}: BLEU {score:.2f}")
        return lines, score

    own, own_score = translated(system)
    best, best_lines, best_score = system, own, own_score
    for beam_size in sorted(set(grid.beam_sizes)):
        for alpha in dict.fromkeys(grid.alphas):
            candidate = system.with_search(beam_size, alpha)
            if candidate.options != system.options:
                lines, score = translated(candidate)
                if score > best_score:
                    best, best_lines, best_score = candidate, lines, score
    if best is system:
        return system
    verdict = compare_systems(own, best_lines, references)
    message(verdict.sentence(f"the recipe's {_described(system)}", _described(best)))
    return best if verdict.significant else system


def _described(system: System) -> str:
    penalty = system.options.length_penalty
    return f"beam {system.options.beam_size}, length penalty {penalty.kind} {penalty.alpha:g}"
