"""R-Drop: two passes over a batch with different dropout are drawn to one prediction (Liang et al. 2021).

As in :mod:`training.objective`, logits exist for a chunk of positions only, and their gradient is formed at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from model.native import operators
from training.objective import Loss, Teaching, real_positions

# Positions a chunk, two rows each.
CHUNK = 256


def twice(tensor: Tensor) -> Tensor:
    """A batch (B, ...) and itself again (2B, ...): one forward pass over it draws a dropout mask for each copy."""
    return torch.cat([tensor, tensor])


def r_drop_cross_entropy(
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    *,
    alpha: float,
    smoothing: float,
    pad: int,
    real: Tensor | None = None,
    teaching: Teaching | None = None,
) -> Loss:
    """Half of the loss of Liang et al. 2021, section 2.1, summed over the positions of ``targets`` without padding.

    ``features`` (2B, T, E) of the two passes, one after the other, output embeddings ``weight`` (V, E), ``bias`` (V),
    ``targets`` (B, T) int64. With p1 and p2 the predictions of the passes at a position, the paper's loss is::

        CE(p1) + CE(p2) + alpha * (KL(p1 || p2) + KL(p2 || p1)) / 2

    CE is label-smoothed. The half makes it the mean of the passes, so that the gradient, and with it ``clip_norm``, has
    the size it has without R-Drop; alpha keeps the paper's meaning. ``positions`` counts a position once. ``real`` and
    ``teaching``: see :func:`training.objective.smoothed_cross_entropy`.
    """
    real = real_positions(targets, pad) if real is None else real
    kept = targets.flatten().index_select(0, real)
    apply: Callable[..., tuple[Tensor, Tensor]] = _ChunkedRDrop.apply
    passes = features.reshape(2, targets.numel(), -1).index_select(1, real)  # (2, N, E)
    smoothed, likelihood = apply(passes, weight, bias, kept, alpha, smoothing, teaching)
    return Loss(smoothed, likelihood, len(kept))


class _ChunkedRDrop(torch.autograd.Function):
    """Loss sum and its gradients for ``passes`` (2, N, E), ``weight`` (V, E) and ``bias`` (V)."""

    @staticmethod
    def forward(
        ctx: Any,
        passes: Tensor,
        weight: Tensor,
        bias: Tensor,
        targets: Tensor,
        alpha: float,
        smoothing: float,
        teaching: Teaching | None,
    ) -> tuple[Tensor, Tensor]:
        sums = torch.promote_types(passes.dtype, torch.float32)
        table, offset = weight.to(passes.dtype), bias.to(passes.dtype)
        smoothed, likelihood = bias.new_zeros((), dtype=sums), bias.new_zeros((), dtype=sums)
        passes_gradient = torch.empty_like(passes)
        weight_gradient, bias_gradient = torch.zeros_like(weight), torch.zeros_like(bias)
        for start in range(0, len(targets), CHUNK):
            part = slice(start, start + CHUNK)
            rows = passes[:, part].flatten(0, 1)  # (2n, E)
            logits = torch.addmm(offset, rows, table.t())  # (2n, V)
            shift = None if teaching is None else teaching.shift(part, targets[part], smoothing).repeat(2, 1)
            if shift is not None:
                smoothed += (shift * logits).sum()
            gradient, columns, nll, entropy = _objective(logits, targets[part], smoothing, alpha / 2)
            if shift is not None:
                gradient, columns = gradient.add_(shift), columns + shift.sum(dim=0)
            likelihood += nll
            smoothed += entropy
            passes_gradient[:, part] = (gradient @ table).reshape(2, -1, passes.shape[2])
            if ctx.needs_input_grad[1]:
                weight_gradient += (gradient.t() @ rows).to(weight.dtype)
            bias_gradient += columns
        ctx.save_for_backward(passes_gradient, weight_gradient, bias_gradient)
        ctx.mark_non_differentiable(likelihood)
        return smoothed / 2, likelihood.div_(2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _likelihood: Tensor) -> tuple[Tensor | None, ...]:
        passes, weight, bias = ctx.saved_tensors
        gradient = gradient / 2
        return passes * gradient.to(passes.dtype), weight * gradient, bias * gradient, None, None, None, None


def _objective(
    logits: Tensor, targets: Tensor, smoothing: float, factor: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of ``logits`` (2n, V), which are used up, and ``targets`` (n): what is minimised, and how.

    The gradient (2n, V) in the logits' type, its sums over the rows (V), the likelihood's sum and the objective's.
    """
    native = operators(logits.device)
    if native is not None and logits.dtype in (torch.float32, torch.bfloat16):
        losses, columns = native.cross_entropy_and_divergence(logits, targets, smoothing, factor)
        nll, uniform, divergence = losses.sum(dim=0)
        return logits, columns, nll, (1 - smoothing) * nll + smoothing * uniform + factor * divergence
    log_probabilities = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=1)
    distance, gradient = _divergence(log_probabilities, factor)
    entropy, nll = _cross_entropy(log_probabilities, targets.repeat(2), smoothing, gradient)
    return gradient.to(logits.dtype), gradient.sum(dim=0), nll, entropy + distance


def _divergence(log_probabilities: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """``factor`` times the sum of KL(p1 || p2) + KL(p2 || p1) over positions, and its gradient (2n, V) for the logits.

    Predictions are (2n, V), first passes before second. With r = log p1 - log p2 the gradient for the logits of p1 is
    p1 (r - KL(p1 || p2)) + p1 - p2, and that for p2 follows by exchanging the two.
    """
    probabilities, gradient = log_probabilities.exp(), torch.empty_like(log_probabilities)
    log_first, log_second = log_probabilities.chunk(2)
    first, second = probabilities.chunk(2)
    to_first, to_second = gradient.chunk(2)
    ratio = log_first - log_second
    ahead = torch.mul(first, ratio, out=to_first).sum(dim=1, keepdim=True)  # KL(p1 || p2), (n, 1)
    back = torch.mul(second, ratio.neg_(), out=to_second).sum(dim=1, keepdim=True)  # KL(p2 || p1)
    to_first.addcmul_(first, 1 - ahead).sub_(second)
    to_second.addcmul_(second, 1 - back).sub_(first)
    return factor * (ahead + back).sum(), gradient.mul_(factor)


def _cross_entropy(
    log_probabilities: Tensor, truth: Tensor, smoothing: float, gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """Smoothed sum, and sum without smoothing, of predictions (M, V); adds the gradient for the logits."""
    vocabulary, truth = log_probabilities.shape[1], truth.unsqueeze(1)
    nll = -log_probabilities.gather(1, truth).sum()
    smoothed = (1 - smoothing) * nll - smoothing * log_probabilities.sum() / vocabulary
    gradient.add_(log_probabilities.exp_()).sub_(smoothing / vocabulary)  # softmax minus target distribution
    gradient.scatter_add_(1, truth, gradient.new_full((1, 1), smoothing - 1).expand_as(truth))
    return smoothed, nll
