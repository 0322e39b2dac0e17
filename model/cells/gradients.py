"""Derivatives that hand-written passes back through time share, each in one kernel of torch."""

from __future__ import annotations

import torch
from torch import Tensor


def through_sigmoid(gradient: Tensor, activation: Tensor) -> Tensor:
    """``gradient * s * (1 - s)`` for ``s = sigmoid(x)``: the gradient with respect to x, all of one shape."""
    before: Tensor = torch.ops.aten.sigmoid_backward(gradient, activation)
    return before


def through_tanh(gradient: Tensor, activation: Tensor) -> Tensor:
    """``gradient * (1 - t^2)`` for ``t = tanh(x)``: the gradient with respect to x, all of one shape."""
    before: Tensor = torch.ops.aten.tanh_backward(gradient, activation)
    return before


def through_cell(gradient: Tensor, gates: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``c_t = f * c_{t-1} + i * g`` backwards: the gradients of what i, f and g are activations of, (N, H) each.

    ``gradient`` (N, H) is that of ``c_t``, ``gates`` (N, 4H) the activations i, f, g, o, ``before`` (N, H) is
    ``c_{t-1}``.
    """
    write, forget, candidate, _ = gates.chunk(4, dim=-1)
    return (
        through_sigmoid(gradient * candidate, write),
        through_sigmoid(gradient * before, forget),
        through_tanh(gradient * write, candidate),
    )
