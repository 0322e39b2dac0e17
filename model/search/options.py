"""What one sentence asks of the search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from model.config import LengthLimit, LengthPenalty, ModelConfig


class SearchOptions(NamedTuple):
    """What one sentence asks of the search."""

    beam_size: int = 5
    n_best: int = 1
    length_penalty: LengthPenalty = LengthPenalty()
    max_length: int | None = None  # pieces without end-of-sentence, instead of the search's length limit
    prefix: tuple[int, ...] = ()  # pieces with which every hypothesis must begin

    def limit(self, source_length: int, length_limit: LengthLimit) -> int:
        """Pieces that a translation may have, end-of-sentence not counted."""
        limit = length_limit.limit(source_length) if self.max_length is None else self.max_length
        return max(limit, len(self.prefix))


def check_sentence(source: Sequence[int], options: SearchOptions, config: ModelConfig) -> None:
    """Raises ValueError for an empty source, an id outside the vocabulary or impossible options."""
    if not source:
        raise ValueError("a source is empty; give it at least one piece")
    check_ids("source", source, config.source_vocabulary)
    check_ids("prefix", options.prefix, config.target_vocabulary)
    reserved = {config.pad, config.bos, config.eos} & {*options.prefix}
    if reserved:
        raise ValueError(f"prefix holds the reserved ids {sorted(reserved)}; give pieces of text only")
    if not 1 <= options.n_best <= options.beam_size:
        raise ValueError(f"n_best is {options.n_best}; it must lie between 1 and the beam size, {options.beam_size}")
    if options.max_length is not None and options.max_length < 0:
        raise ValueError(f"max_length is {options.max_length}; it must not be negative")


def check_ids(name: str, ids: Sequence[int], size: int) -> None:
    """Raises ValueError for one of ``ids`` outside a vocabulary of ``size`` pieces; ``name`` says of what they are."""
    for id_ in ids:
        if not 0 <= id_ < size:
            raise ValueError(f"{name} holds the id {id_}; the vocabulary has ids 0 to {size - 1}")
