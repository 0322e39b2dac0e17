"""A sentence explained by checkpoints: text in, pieces and figures out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from model.checkpoint import Checkpoint, load_checkpoint
from model.search import SearchOptions, translate
from tokenizer.subword import Subword, load_tokenizers
from training.explain import ExplainError, Explanation, check_length, explain, layer_names

BEGIN, END = "<s>", "</s>"


class Explained(NamedTuple):
    """One sentence in one checkpoint; S source and T target positions as in :class:`training.explain.Explanation`."""

    label: str  # the model's cell, numbered where several checkpoints have the same
    checkpoint: Path
    source: str
    target: str
    own: bool  # whether the target is the model's own translation
    source_pieces: list[str]  # S
    target_pieces: list[str]  # T, what each position predicts
    explanation: Explanation

    @property
    def target_inputs(self) -> list[str]:
        """What the decoder reads at each of the T positions: the piece before the one that it predicts."""
        return [BEGIN, *self.target_pieces[:-1]]


def explain_checkpoints(folders: Sequence[Path], text: str, target: str | None, layer: str) -> list[Explained]:
    """Explain ``text`` and its translation ``target`` in each checkpoint, on the CPU.

    Without a target each explains its own translation. Raises ExplainError for an empty text or target, for one
    that is too long and for a ``layer`` that a model does not have; CheckpointError, TokenizerError, InvalidTextError.
    """
    if target is not None and not target.strip():
        raise ExplainError("the target is empty; give a translation, or none to explain the model's own")
    checkpoints = [load_checkpoint(folder) for folder in folders]
    for checkpoint in checkpoints:
        known = layer_names(checkpoint.model)
        if layer not in known:
            raise ExplainError(f"{checkpoint.folder} has no layer {layer!r}; it has {', '.join(known)}")
    labels = _labels([checkpoint.config.model.cell for checkpoint in checkpoints])
    return [
        _explain_text(checkpoint, label, text, target) for checkpoint, label in zip(checkpoints, labels, strict=True)
    ]


def _explain_text(checkpoint: Checkpoint, label: str, text: str, target: str | None) -> Explained:
    tokenizers = load_tokenizers(checkpoint.folder)
    source_ids = tokenizers.source.encode(text)
    if not source_ids:
        raise ExplainError("the text is empty; give a sentence with --text")
    check_length("text", len(source_ids))  # before it is translated
    target_ids = _own_translation(checkpoint, source_ids) if target is None else tokenizers.target.encode(target)
    return Explained(
        label,
        checkpoint.folder,
        text,
        tokenizers.target.decode(target_ids),
        target is None,
        _pieces(tokenizers.source, source_ids),
        _pieces(tokenizers.target, target_ids),
        explain(checkpoint.model, source_ids, target_ids),
    )


def _own_translation(checkpoint: Checkpoint, source: list[int]) -> list[int]:
    config = checkpoint.config
    options = SearchOptions(config.beam_size, length_penalty=config.length_penalty)
    ((best, *_),) = translate(checkpoint.model, [source], options, config.length_limit)
    return list(best.pieces)


def _pieces(subword: Subword, ids: list[int]) -> list[str]:
    return [*(piece.text for piece in subword.decode_pieces(ids)[1]), END]


def _labels(cells: Sequence[str]) -> list[str]:
    """Each cell's name; those that come several times are numbered in the order given."""
    total, met = Counter(cells), Counter[str]()
    labels = []
    for cell in cells:
        met[cell] += 1
        labels.append(cell if total[cell] == 1 else f"{cell} {met[cell]}")
    return labels
