"""Beam search in plain numpy, one sentence at a time and without early stopping: what ``model.search`` must equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from model.search import Hypothesis, SearchOptions
from model.seq2seq import Seq2Seq

NextPiece = Callable[[tuple[int, ...]], NDArray[np.float32]]


def beam_search(next_piece: NextPiece, options: SearchOptions, limit: int, eos: int) -> list[Hypothesis]:
    """The n best hypotheses; ``next_piece`` gives the log-probabilities (V) of what follows some pieces."""
    live: list[tuple[np.float32, tuple[int, ...]]] = [(np.float32(0), ())]
    finished: list[Hypothesis] = []
    for length in range(limit + 1):
        extensions = []
        for rank, (total, pieces) in enumerate(live):
            for piece, value in enumerate(total + next_piece(pieces)):
                forced = eos if length == limit else piece
                if length < len(options.prefix):
                    forced = options.prefix[length]
                if piece == forced and value > -np.inf:
                    extensions.append((value, rank, piece))
        extensions.sort(key=lambda extension: (-extension[0], *extension[1:]))
        ended = [item for item in extensions[: options.beam_size] if item[2] == eos]
        finished += [hypothesis(float(value), live[rank][1], options) for value, rank, _ in ended]
        going = [item for item in extensions if item[2] != eos][: options.beam_size]
        live = [(value, (*live[rank][1], piece)) for value, rank, piece in going]
        if len(finished) >= options.beam_size:
            break
    return best(finished, options)


def exhaustive_search(next_piece: NextPiece, options: SearchOptions, limit: int, eos: int) -> list[Hypothesis]:
    """The n best of every possible hypothesis."""
    found: list[Hypothesis] = []

    def visit(total: np.float32, pieces: tuple[int, ...]) -> None:
        for piece, value in enumerate(total + next_piece(pieces)):
            if piece == eos:
                found.append(hypothesis(float(value), pieces, options))
            elif value > -np.inf and len(pieces) < limit:
                visit(value, (*pieces, piece))

    visit(np.float32(0), ())
    return best(found, options)


def hypothesis(log_probability: float, pieces: tuple[int, ...], options: SearchOptions) -> Hypothesis:
    """``pieces``, scored with the formulas of the papers."""
    length, penalty = len(pieces) + 1, options.length_penalty
    base = {"power": length, "gnmt": (5 + length) / (5 + 1), "none": 1}[penalty.kind]
    return Hypothesis(pieces, log_probability / base**penalty.alpha, log_probability)


def best(found: list[Hypothesis], options: SearchOptions) -> list[Hypothesis]:
    """The n best by score, equal ones in the order in which they were found."""
    return sorted(found, key=lambda item: -item.score)[: options.n_best]


def next_piece_of(model: Seq2Seq, source: Sequence[int]) -> NextPiece:
    """The model's log-probabilities by a teacher-forced pass, without begin-of-sentence and padding."""
    config = model.config
    ids = torch.tensor([[*source, config.eos]])

    @cache
    @torch.inference_mode()
    def next_piece(pieces: tuple[int, ...]) -> NDArray[np.float32]:
        features = model(ids, torch.tensor([ids.shape[1]]), torch.tensor([[config.bos, *pieces]]))
        scores = torch.log_softmax(model.logits(features[0, -1]).float(), dim=-1).numpy()
        scores[[config.bos, config.pad]] = -np.inf
        return scores

    return next_piece
