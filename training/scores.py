"""Evaluations as a table, as JSON, and as files beside the hypotheses."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from rich.table import Table

from model.search import SearchOptions
from training.evaluate import Result

SCORES_FILE = "scores.json"
Entry: TypeAlias = dict[str, str | int | float | dict[str, str]]


def score_entry(result: Result, options: SearchOptions) -> Entry:
    """One test set as JSON values; scores as sacreBLEU gives them, not rounded."""
    return {
        "data": result.data,
        "split": result.split,
        "sentences": len(result.hypotheses),
        "bleu": result.scores.bleu,
        "bleu_lc": result.scores.bleu_lc,
        "chrf2": result.scores.chrf2,
        "ter": result.scores.ter,
        "signatures": result.scores.signatures,
        "sentences_per_second": result.sentences_per_second,
        "beam_size": options.beam_size,
        "length_penalty": options.length_penalty.kind,
        "alpha": options.length_penalty.alpha,
        "precision": result.precision,
    }


def score_table(results: Sequence[Result], options: SearchOptions) -> Table:
    """The test sets as a table, the signatures below it."""
    penalty, precision = options.length_penalty, results[0].precision
    title = f"beam {options.beam_size}, length penalty {penalty.kind} {penalty.alpha:g}, {precision}"
    table = Table(title=title, title_justify="left")
    table.add_column("test set", overflow="fold")
    for column in ("sentences", "BLEU", "BLEU lc", "chrF2", "TER", "sentences/s"):
        table.add_column(column, justify="right", no_wrap=True)
    for result in results:
        scores = result.scores
        figures = [f"{figure:.2f}" for figure in (scores.bleu, scores.bleu_lc, scores.chrf2, scores.ter)]
        table.add_row(
            f"{result.data} {result.split}".strip(),
            f"{len(result.hypotheses):,}",
            *figures,
            f"{result.sentences_per_second:.1f}",
        )
    table.caption = "\n".join(f"{name}: {signature}" for name, signature in results[0].scores.signatures.items())
    table.caption_justify = "left"
    return table


def write_results(results: Sequence[Result], options: SearchOptions, language: str, folder: Path) -> None:
    """Writes each test set's hypotheses, a line a sentence, as ``NAME.SPLIT.LANGUAGE``, and all scores as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    entries: list[Entry] = []
    for result in results:
        stem = re.sub(r"[^\w.-]+", "_", f"{result.data}.{result.split}").strip("._")
        name = next(name for name in _numbered(stem, language, len(results)) if name not in taken)
        taken.add(name)
        (folder / name).write_text("".join(f"{text}\n" for text in result.hypotheses), encoding="utf-8")
        entries.append({**score_entry(result, options), "hypotheses": name})
    (folder / SCORES_FILE).write_text(json.dumps(entries, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _numbered(stem: str, language: str, count: int) -> list[str]:
    return [f"{stem}.{language}", *(f"{stem}.{number}.{language}" for number in range(2, count + 2))]
