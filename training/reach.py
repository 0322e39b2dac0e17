"""How far a gradient reaches: its norms by distance, and the figures that sum them up."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Reach(NamedTuple):
    """How a gradient fades with the distance d = t - s between the later position t and the earlier input s."""

    curve: Tensor  # (T) float64: what is left of the gradient at distance d, as a share of that at distance 0
    half_distance: float | None  # in positions, where the curve first falls below one half; None: nowhere
    factor: float | None  # by which a position more multiplies it, fitted to the whole curve; None for one position

    @classmethod
    def of(cls, norms: Tensor) -> Reach:
        """From norms (T, T), those of an earlier or the same input s at [t, s] with s <= t.

        ``curve[d]`` is the geometric mean over t of ``norms[t, t - d] / norms[t, t]``: geometric because the norms are
        products, so that it falls by the mean logarithm of the factors, and relative because losses differ in size. A
        position without any gradient, its loss being 0, says nothing and is left out; NaN where none is left.
        """
        smallest = torch.finfo(torch.float32).tiny  # below this, single precision knows no gradient
        logarithms = norms.double().clamp(min=smallest).log()
        shares = logarithms - logarithms.diagonal().unsqueeze(1)
        shares[norms.diagonal() <= 0] = math.nan
        diagonals = [shares.diagonal(-distance) for distance in range(len(norms))]
        means = torch.stack([diagonal.nanmean() for diagonal in diagonals])
        pairs = torch.stack([diagonal.isfinite().sum() for diagonal in diagonals])
        return cls(means.exp(), _half_distance(means), _factor(means, pairs))

    def at(self, distance: int) -> float | None:
        """The share left at ``distance``; None where the sentence is not as long."""
        return float(self.curve[distance]) if distance < len(self.curve) else None


def _half_distance(means: Tensor) -> float | None:
    """Where ``means`` (T), natural logarithms, cross that of one half, on the line between two distances."""
    half = math.log(0.5)
    below = (means < half).nonzero()
    if not len(below):
        return None
    after = int(below[0])
    before = float(means[after - 1])
    return after - 1 + (before - half) / (before - float(means[after]))


def _factor(means: Tensor, pairs: Tensor) -> float | None:
    """The exponential of the slope of ``means`` (T), each weighted by the ``pairs`` (T) that it is the mean of."""
    known = pairs > 0
    if int(known.sum()) < 2:
        return None
    weight, mean = pairs[known].double(), means[known]
    distance = known.nonzero().squeeze(1).double()
    centred = distance - (weight * distance).sum() / weight.sum()
    return math.exp(float((weight * centred * mean).sum() / (weight * centred.square()).sum()))
