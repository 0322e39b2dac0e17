"""R-Drop computed in chunks is the plain formula of the paper, in value and in gradient."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from training import r_drop
from training.objective import smoothed_cross_entropy
from training.r_drop import r_drop_cross_entropy, twice

PAD = 0


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Float64 features of two passes (2 * 3, 5, 4), output embeddings (7, 4), bias (7), targets (3, 5) with padding."""
    generator = torch.Generator().manual_seed(3)
    shapes = ((6, 5, 4), (7, 4), (7,))
    features, weight, bias = (
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes
    )
    targets = torch.randint(1, 7, (3, 5), generator=generator)
    targets[1, 2:] = PAD
    return features, weight, bias, targets


def plain(
    features: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    targets: torch.Tensor,
    alpha: float,
    smoothing: float,
) -> torch.Tensor:
    """The paper's loss from torch's own functions, all logits at once."""
    real = targets != PAD
    first, second = (functional.linear(half[real], weight, bias) for half in features.chunk(2))
    p1, p2 = first.log_softmax(-1), second.log_softmax(-1)
    divergence = sum(functional.kl_div(a, b, reduction="sum", log_target=True) for a, b in ((p1, p2), (p2, p1)))
    entropy = sum(
        functional.cross_entropy(logits, targets[real], label_smoothing=smoothing, reduction="sum")
        for logits in (first, second)
    )
    return entropy + alpha * divergence / 2


@pytest.mark.parametrize("alpha", [0.0, 0.7, 5.0])
@pytest.mark.parametrize("chunk", [1, 3, 256])
def test_it_is_half_the_loss_of_the_paper(batch, alpha, chunk, monkeypatch) -> None:
    monkeypatch.setattr(r_drop, "CHUNK", chunk)
    features, weight, bias, targets = batch
    loss = r_drop_cross_entropy(features, weight, bias, targets, alpha=alpha, smoothing=0.1, pad=PAD)
    expected = plain(features, weight, bias, targets, alpha, 0.1) / 2
    torch.testing.assert_close(loss.smoothed, expected)
    ours = torch.autograd.grad(loss.smoothed * 0.25, (features, weight, bias))
    theirs = torch.autograd.grad(expected * 0.25, (features, weight, bias))
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference)


def test_the_gradient_is_that_of_finite_differences(batch) -> None:
    features, weight, bias, targets = batch

    def loss(features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return r_drop_cross_entropy(features, weight, bias, targets, alpha=3.0, smoothing=0.2, pad=PAD).smoothed

    assert torch.autograd.gradcheck(loss, (features, weight, bias))


def test_without_dropout_it_is_the_plain_objective(batch) -> None:
    """Two equal passes do not diverge, and their mean is either of them."""
    features, weight, bias, targets = batch
    once = features[:3]
    loss = r_drop_cross_entropy(twice(once), weight, bias, targets, alpha=5.0, smoothing=0.1, pad=PAD)
    expected = smoothed_cross_entropy(once, weight, bias, targets, smoothing=0.1, pad=PAD)
    torch.testing.assert_close(loss.smoothed, expected.smoothed)
    torch.testing.assert_close(loss.likelihood, expected.likelihood)
    assert loss.positions == expected.positions == 3 * 5 - 3


def test_likelihood_knows_neither_smoothing_nor_divergence(batch) -> None:
    features, weight, bias, targets = batch
    loss = r_drop_cross_entropy(features, weight, bias, targets, alpha=5.0, smoothing=0.3, pad=PAD)
    torch.testing.assert_close(loss.likelihood, plain(features, weight, bias, targets, 0.0, 0.0).detach() / 2)
    assert not loss.likelihood.requires_grad


def test_bfloat16_features_leave_the_sums_in_float32(batch) -> None:
    features, weight, bias, targets = (part.detach().float() if part.is_floating_point() else part for part in batch)
    features = features.bfloat16().requires_grad_()
    loss = r_drop_cross_entropy(features, weight, bias, targets, alpha=1.0, smoothing=0.1, pad=PAD)
    expected = plain(features.float(), weight, bias, targets, 1.0, 0.1) / 2
    assert loss.smoothed.dtype == torch.float32
    torch.testing.assert_close(loss.smoothed, expected, rtol=0.02, atol=0.0)
    assert torch.autograd.grad(loss.smoothed, features)[0].dtype == torch.bfloat16
