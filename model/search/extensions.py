"""From logits to the best extensions of each sentence's hypotheses, on the model's device.

Costs stand for log-probabilities, their sign turned, float32: of a hypothesis ``c``, of its extension by piece ``v``
``c - log_softmax(logits)[v]``. An extension's key is the bits of its cost, which rise with it as none is negative, and
below them its place ``row * columns + column`` among all rows: no two are equal, and a sentence's smallest are its best
extensions, of equal cost the one of the better hypothesis and then of the smaller id, on every device and in every
batch alike.

The smallest keys are found in two exact stages. The columns of a row lie in chunks; the cheapest extension of each
chunk has the chunk's highest logarithm. Of m wanted extensions none lies outside the m chunks whose cheapest come
first: there each of those m would be better. So keys are made of the chunks' maxima, and then of m chunks, never of
the whole vocabulary.
"""

from __future__ import annotations

import math
from functools import cache, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from model.native import operators

PLACES = 2**32  # a key is its cost's bits times this, plus its place
NEVER = 0x7F800000 * PLACES  # from here on the cost is infinite or no number
_NARROWEST, _WIDEST, _USUAL = 32, 256, 128  # columns of a chunk


class Columns(NamedTuple):
    """What the columns of the logits are."""

    size: int  # how many there are
    end: int  # the column of end-of-sentence
    barred: Tensor  # int64, columns that extend no hypothesis: padding, begin-of-sentence and end-of-sentence
    restricted: bool = False  # whether they are some pieces, which vary with the batch: see _exact_log_softmax

    @property
    def chunk(self) -> int:
        """Columns of a chunk."""
        return _chunk(self.size)

    @property
    def padded(self) -> int:
        """Columns in whole chunks, by which places count."""
        return -(-self.size // self.chunk) * self.chunk


@cache
def _chunk(count: int) -> int:
    """A divisor of the number of columns if there is a good one; all of them if they are few."""
    if count <= _WIDEST:
        return count
    divisors = [width for width in range(_NARROWEST, _WIDEST + 1) if count % width == 0]
    return min(divisors, key=lambda width: abs(width - _USUAL), default=_USUAL)


class Forced(NamedTuple):
    """Sentences of which only the first hypothesis lives, and only one piece may follow."""

    slots: Tensor  # (F) int64
    columns: Tensor  # (F) int64


def best_extensions(logits: Tensor, costs: Tensor, width: int, columns: Columns, forced: Forced | None) -> Tensor:
    """Keys of the best ``width`` extensions that go on, best first, then of each row's end: (B, M + J) int64.

    ``logits`` (B * J, V) of J hypotheses for each of B sentences may be overwritten; ``costs`` (B, J) float32 are
    infinite where none lives. M is ``width``, or fewer where there are not as many extensions.

    On a CPU the operators of :mod:`model.native` do it in one call, a sentence's rows after another.
    """
    if native := operators(logits.device):
        what = (columns.padded, columns.end, columns.barred.tolist(), columns.restricted)
        return native.best_extensions(logits.float(), costs, width, *what, *(forced or (None, None)))
    sentences, rows = costs.shape
    scores = _exact_log_softmax(logits) if columns.restricted else _log_softmax(logits)
    each = costs.view(-1)
    places = _range(sentences * rows, columns.padded, costs.device) + columns.end
    ends = _keys(each - scores[:, columns.end], places).view(sentences, rows)
    prescribed = None if forced is None else costs[forced.slots, 0] - scores[forced.slots * rows, forced.columns]
    going = _best(scores.index_fill_(1, columns.barred, -math.inf), costs, width, columns)
    if forced is not None and prescribed is not None:
        ends[forced.slots] = NEVER
        going[forced.slots] = NEVER
        going[forced.slots, 0] = _keys(prescribed, forced.slots * rows * columns.padded + forced.columns)
    return torch.cat([going, ends], dim=1)


def _log_softmax(logits: Tensor) -> Tensor:
    """Its cost is one exponential a logit, which the sum needs anyway; in place it writes no second array."""
    scores = logits.float()
    if scores.device.type != "cpu":
        return torch.log_softmax(scores, dim=-1)
    return torch.log_softmax(scores, dim=-1, out=scores)


def _exact_log_softmax(logits: Tensor) -> Tensor:
    """The same of columns that vary with the batch, minus infinity being that of another sentence's piece.

    Exponentials are rounded to multiples of 2^-36, whose sum is exact in float64: the same whatever their places.
    """
    shifted = logits.float() - logits.float().amax(dim=1, keepdim=True)
    total = shifted.exp().double().mul_(2.0**36).round_().sum(dim=1, keepdim=True)
    return shifted.sub_(total.float().div_(2.0**36).log_())


def _best(scores: Tensor, costs: Tensor, width: int, columns: Columns) -> Tensor:
    sentences, rows = costs.shape
    chunk = columns.chunk
    if columns.padded > columns.size:
        scores = functional.pad(scores, (0, columns.padded - columns.size), value=-math.inf)
    chunks = scores.view(-1, chunk)  # (B * J * C, chunk)
    each = columns.padded // chunk
    cheapest = costs.view(-1, 1) - chunks.amax(dim=1).view(-1, each)  # (B * J, C)
    places = _range(sentences * rows * each, 1, costs.device).view(-1, each)
    first = _smallest(_keys(cheapest, places).view(sentences, -1), width)
    chosen = first.bitwise_and(PLACES - 1).view(-1, 1)  # (B * m, 1), chunks of all
    cost = costs.take(chosen // each) - chunks.index_select(0, chosen.view(-1))  # (B * m, chunk)
    places = torch.add(_range(chunk, 1, costs.device), chosen, alpha=chunk)
    return _smallest(_keys(cost, places).view(sentences, -1), width)


def _keys(costs: Tensor, places: Tensor) -> Tensor:
    """``costs`` float32, not negative and not needed hereafter, with their ``places`` int64; what is no number is last.

    The sign bit of what is no number may be set.
    """
    return torch.add(places, costs.abs_().view(torch.int32), alpha=PLACES)


def _smallest(keys: Tensor, count: int) -> Tensor:
    return keys.topk(min(count, keys.shape[1]), dim=1, largest=False).values


@lru_cache(maxsize=64)
def _range(count: int, step: int, device: torch.device) -> Tensor:
    """0, ``step``, 2 ``step``, ..., ``count`` of them, int64."""
    return torch.arange(0, count * step, step, device=device)
