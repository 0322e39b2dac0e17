"""What a model thinks of given translations: their log-probabilities piece by piece, and its attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from model.padding import pad_ids, pad_sources
from model.search.options import check_ids
from model.seq2seq import Seq2Seq


class Annotation(NamedTuple):
    """What the model thought of a translation: for its T pieces and then end-of-sentence."""

    log_probabilities: list[float]  # (T + 1), natural logarithm
    attention: list[list[float]]  # (T + 1) x (S + 1); the last column is the source's end-of-sentence; rows sum to 1


@torch.inference_mode()
def annotate(model: Seq2Seq, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> list[Annotation]:
    """Log-probabilities and attention of given translations, in one teacher-forced pass over all pairs.

    ``sources`` and ``targets`` are ids without begin- or end-of-sentence; a ValueError names an id outside the
    vocabulary. Search itself keeps neither figure: whoever asks for them pays for them.
    """
    if len(sources) != len(targets):
        raise ValueError(f"{len(sources)} sources came with {len(targets)} targets; give one for each")
    if not sources:
        return []
    config = model.config
    for pieces, target in zip(sources, targets, strict=True):
        check_ids("source", pieces, config.source_vocabulary)
        check_ids("target", target, config.target_vocabulary)
    source, source_lengths = pad_sources(sources, config, model.device)
    target_input, _ = pad_ids([[config.bos, *target] for target in targets], config, model.device)
    target_output, _ = pad_ids([[*target, config.eos] for target in targets], config, model.device)
    features, attention = model.attend(source, source_lengths, target_input)
    scores = torch.log_softmax(model.logits(features).float(), dim=-1).gather(2, target_output.unsqueeze(-1)).squeeze(2)
    return [
        Annotation(row[: len(target) + 1].tolist(), weights[: len(target) + 1, : len(pieces) + 1].tolist())
        for row, weights, pieces, target in zip(scores, attention, sources, targets, strict=True)
    ]
