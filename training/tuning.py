"""Chooses beam size and length penalty on dev."""

from __future__ import annotations

from collections.abc import Callable

from sacrebleu.metrics.bleu import BLEU

from training.config import Recipe, TuningConfig
from training.reading import read_all
from training.system import System


def tune(system: System, recipe: Recipe, grid: TuningConfig, message: Callable[[str], None]) -> System:
    """The system with the grid's best search options by cased BLEU on dev; of equals the smaller beam."""
    pairs = read_all(recipe.data.dev)
    sources, references = [pair.source for pair in pairs], [pair.target for pair in pairs]
    best, best_score, kind = system, -1.0, system.options.length_penalty.kind
    for beam_size in sorted(set(grid.beam_sizes)):
        for alpha in dict.fromkeys(grid.alphas):
            candidate = system.with_search(beam_size, alpha)
            found = BLEU().corpus_score(candidate.translate(sources), [references]).score
            message(f"dev: beam {beam_size}, length penalty {kind} {alpha:g}: BLEU {found:.2f}")
            if found > best_score:
                best, best_score = candidate, found
    return best
