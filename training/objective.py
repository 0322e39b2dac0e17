"""The training objective: cross-entropy with label smoothing, computed in chunks together with its gradient.

The logits of a batch (thousands of positions by thousands of pieces) are the largest tensor of a step. Here they exist
only for a chunk of positions at a time, and their gradient is formed while they are at hand, so that nothing of that
size is stored for the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model.native import operators

# Positions a chunk: large enough for full-speed matrix products, small enough for its logits to stay in cache.
CHUNK = 1024


class Loss(NamedTuple):
    """Sums over the real target positions, in nats."""

    smoothed: Tensor  # scalar, float32 or wider, what is minimised
    likelihood: Tensor  # scalar, of the same type, negative log-likelihood without smoothing, detached
    positions: int


class Prediction(NamedTuple):
    """What one teacher predicts, short of the product with its output embeddings."""

    features: Tensor  # (N, E) at the real target positions
    weight: Tensor  # (V, E) in the features' type
    bias: Tensor  # (V) in the features' type


class Teaching(NamedTuple):
    """What teachers say of a batch (:mod:`training.word_distillation`)."""

    predictions: tuple[Prediction, ...]
    share: float

    def shift(self, part: slice, targets: Tensor, smoothing: float) -> Tensor:
        """How far the positions ``part``, with their ``targets`` (n,), are from the plain objective: (n, V), float32.

        The label-smoothed reference minus the mixture. Both distributions sum to one, so that cross-entropy with the
        mixture is that with the reference plus the product of this with the logits, and its gradient for the logits is
        the plain gradient plus this.
        """
        found = None
        for features, weight, bias in self.predictions:
            each = torch.addmm(bias, features[part], weight.t()).to(torch.promote_types(bias.dtype, torch.float32))
            each = torch.softmax(each, dim=1)
            found = each if found is None else found.add_(each)
        assert found is not None
        found.mul_(-self.share / len(self.predictions)).add_(self.share * smoothing / found.shape[1])
        reference = found.new_full((1, 1), self.share * (1 - smoothing)).expand(len(targets), 1)
        return found.scatter_add_(1, targets.unsqueeze(1), reference)


def smoothed_cross_entropy(
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    *,
    smoothing: float,
    pad: int,
    real: Tensor | None = None,
    teaching: Teaching | None = None,
) -> Loss:
    """Label-smoothed cross-entropy (Szegedy et al. 2016, section 7), summed over positions that are not padding.

    ``features`` (B, T, E), output embeddings ``weight`` (V, E), ``bias`` (V), ``targets`` (B, T) int64. The target
    distribution is ``1 - smoothing`` on the target plus ``smoothing / V`` on every piece; with ``teaching`` mixed with
    what teachers predict. ``real``: see :func:`real_positions`.
    """
    real = real_positions(targets, pad) if real is None else real
    kept = targets.flatten().index_select(0, real)
    apply: Callable[..., tuple[Tensor, Tensor]] = _ChunkedCrossEntropy.apply
    smoothed, likelihood = apply(features.flatten(0, 1).index_select(0, real), weight, bias, kept, smoothing, teaching)
    return Loss(smoothed, likelihood, len(kept))


def real_positions(targets: Tensor, pad: int) -> Tensor:
    """Where the flattened ``targets`` (B, T) are no padding, (N,) int64.

    Finding them on a GPU makes the host wait; a training step brings them along from the CPU.
    """
    return (targets != pad).flatten().nonzero().squeeze(1)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Loss sum and its gradients for ``features`` (N, E), ``weight`` (V, E) and ``bias`` (V)."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor,
        targets: Tensor,
        smoothing: float,
        teaching: Teaching | None,
    ) -> tuple[Tensor, Tensor]:
        # Called outside autocast, whose part this does by hand: products in the features' type, sums at least float32.
        sums = torch.promote_types(features.dtype, torch.float32)
        table, offset = weight.to(features.dtype), bias.to(features.dtype)
        smoothed, likelihood = bias.new_zeros((), dtype=sums), bias.new_zeros((), dtype=sums)
        features_gradient = torch.empty_like(features)
        weight_gradient, bias_gradient = torch.zeros_like(weight), torch.zeros_like(bias)
        for start in range(0, len(targets), CHUNK):
            part = slice(start, start + CHUNK)
            logits = torch.addmm(offset, features[part], table.t())  # (n, V)
            shift = None if teaching is None else teaching.shift(part, targets[part], smoothing)
            if shift is not None:
                smoothed += (shift * logits).sum()
            gradient, columns, nll, uniform = _cross_entropy(logits, targets[part], smoothing)
            if shift is not None:
                gradient, columns = gradient.add_(shift), columns + shift.sum(dim=0)
            likelihood += nll
            smoothed += (1 - smoothing) * nll + smoothing * uniform
            bias_gradient += columns
            features_gradient[part] = gradient @ table
            if ctx.needs_input_grad[1]:  # frozen embeddings need none
                weight_gradient += (gradient.t() @ features[part]).to(weight_gradient.dtype)
        ctx.save_for_backward(features_gradient, weight_gradient, bias_gradient)
        ctx.mark_non_differentiable(likelihood)
        return smoothed, likelihood

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _likelihood: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, bias = ctx.saved_tensors
        return features * gradient.to(features.dtype), weight * gradient, bias * gradient, None, None, None


class _Entropy(NamedTuple):
    """Of logits (n, V)."""

    gradient: Tensor  # (n, V), in the logits' type and perhaps in their place: softmax minus target distribution
    columns: Tensor  # (V), its sums over the rows, float32 or wider
    nll: Tensor  # scalar, the loss without smoothing
    uniform: Tensor  # scalar, the loss of all pieces alike


def _cross_entropy(logits: Tensor, targets: Tensor, smoothing: float) -> _Entropy:
    """The smoothed loss of ``targets`` (n,) and its gradient; the logits are used up."""
    native = operators(logits.device)
    if native is not None and logits.dtype in (torch.float32, torch.bfloat16):
        losses, columns = native.cross_entropy(logits, targets, smoothing)
        nll, uniform = losses.sum(dim=0)
        return _Entropy(logits, columns, nll, uniform)
    vocabulary, truth = logits.shape[1], targets.unsqueeze(1)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    normaliser = torch.logsumexp(wide, dim=1, keepdim=True)  # (n, 1)
    nll = (normaliser - wide.gather(1, truth)).sum()
    uniform = normaliser.sum() - wide.sum() / vocabulary
    gradient = wide.sub_(normaliser).exp_().sub_(smoothing / vocabulary)
    gradient.scatter_add_(1, truth, gradient.new_full((1, 1), smoothing - 1).expand_as(truth))
    return _Entropy(gradient.to(logits.dtype), gradient.sum(dim=0), nll, uniform)
