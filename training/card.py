"""The model card: a checkpoint's ``README.md``, written from its ``config.json`` and the recipe's words."""

from __future__ import annotations

from collections.abc import Sequence

from model.checkpoint import CheckpointConfig, Evaluation, ShortlistSummary
from training.config import CardConfig

CARD = "README.md"
_SHORTLIST = "| Shortlist | "


def render_card(config: CheckpointConfig, card: CardConfig, parameters: int) -> str:
    """Markdown for a person who wonders whether to use the checkpoint: what, from what, how good, and what not."""
    data = _bullets(config.training.data)
    sections = [
        f"# {config.name} {config.version}\n\n{card.summary.strip()}",
        _facts(config, parameters),
        f"## Data\n\n{data}\n\n{card.attribution.strip()}".rstrip(),
    ]
    if config.evaluations:
        sections.append(f"## Scores\n\n{_scores(config.evaluations)}")
    if card.strengths:
        sections.append("## What it is good at\n\n" + _bullets(card.strengths))
    if card.limits:
        sections.append("## What it is not good at\n\n" + _bullets(card.limits))
    sections.append(_training(config))
    return "\n\n".join(sections) + "\n"


def _facts(config: CheckpointConfig, parameters: int) -> str:
    model, penalty = config.model, config.length_penalty
    cell, layers = model.cell.replace("_", " ").upper(), f"{model.encoder_layers} + {model.decoder_layers}"
    vocabulary = (
        f"{model.source_vocabulary:,} pieces, joint"
        if model.tied == "all"
        else f"{model.source_vocabulary:,} source and {model.target_vocabulary:,} target pieces"
    )
    rows = (
        ("Direction", f"{config.source} → {config.target}"),
        ("Licence", config.training.licence),
        ("Model", f"{cell}, {layers} layers of {model.hidden}, {model.attention}"),
        ("Parameters", f"{parameters / 1e6:.1f} million, stored in {config.precision}"),
        ("Vocabulary", vocabulary),
        ("Search", f"beam {config.beam_size}, length penalty {penalty.kind} {penalty.alpha:g}"),
    )
    table = ["| | |", "|---|---|", *(f"| {name} | {_cell(value)} |" for name, value in rows)]
    if config.shortlist:
        table.append(shortlist_row(config.shortlist))
    return "\n".join(table)


def with_shortlist(card: str, summary: ShortlistSummary) -> str:
    """An existing ``card`` that speaks of a shortlist, in the place of an older one's row or below the search's."""
    lines, row = card.splitlines(), shortlist_row(summary)
    older = [number for number, line in enumerate(lines) if line.startswith(_SHORTLIST)]
    searches = [number for number, line in enumerate(lines) if line.startswith("| Search |")]
    if older:
        lines[older[0]] = row
    elif searches:
        lines.insert(searches[0] + 1, row)
    else:
        lines += ["", "| | |", "|---|---|", row]
    return "\n".join(lines) + "\n"


def shortlist_row(summary: ShortlistSummary) -> str:
    """The row of the table of facts."""
    return (
        f"{_SHORTLIST}optional: {summary.size} translations of each source piece and the {summary.frequent} most "
        f"frequent pieces, learned from {summary.pairs:,} pairs ({_cell('; '.join(summary.data))}) |"
    )


def _scores(evaluations: Sequence[Evaluation]) -> str:
    lines = [
        "sacreBLEU of this checkpoint as stored, on text that it was not trained on.",
        "",
        "| test set | sentences | beam | BLEU | BLEU lower-cased | chrF2 | TER |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for entry in evaluations:
        figures = " | ".join(f"{figure:.1f}" for figure in (entry.bleu, entry.bleu_lc, entry.chrf2, entry.ter))
        name = _cell(f"{entry.data} {entry.split}")
        lines.append(f"| {name} | {entry.sentences:,} | {entry.beam_size} | {figures} |")
    lines += ["", "Signatures:", ""]
    lines += [f"- {name}: `{signature}`" for name, signature in evaluations[0].signatures.items()]
    return "\n".join(lines)


def _training(config: CheckpointConfig) -> str:
    made = config.training
    return (
        "## How it was made\n\n"
        f"Ferry {made.ferry_version}, recipe `{made.recipe}` (resolved: SHA-256 `{made.recipe_sha256}`), "
        f"seed {made.seed}: {made.steps:,} steps, {made.target_tokens:,} target pieces, "
        f"{made.seconds / 60:.0f} minutes on {made.device}."
    )


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
