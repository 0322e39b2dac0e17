"""The chunked objective is plain label-smoothed cross-entropy, in value and in gradient."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch.nn import functional

from model import native
from training import objective
from training.objective import smoothed_cross_entropy

PAD = 0


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features (4, 9, 8), output embeddings (13, 8), bias (13), targets (4, 9) with padding."""
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(4, 9, 8, generator=generator, requires_grad=True)
    weight = torch.randn(13, 8, generator=generator, requires_grad=True)
    bias = torch.randn(13, generator=generator, requires_grad=True)
    targets = torch.randint(1, 13, (4, 9), generator=generator)
    targets[1, 5:] = PAD
    return features, weight, bias, targets


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("chunk", [1, 7, 512])
@pytest.mark.parametrize("plain", [False, True])
def test_value_and_gradients_are_those_of_torch(batch, smoothing, chunk, plain, monkeypatch) -> None:
    monkeypatch.setattr(objective, "CHUNK", chunk)
    features, weight, bias, targets = batch
    with native.set_aside() if plain else nullcontext():
        loss = smoothed_cross_entropy(features, weight, bias, targets, smoothing=smoothing, pad=PAD)
    expected = functional.cross_entropy(
        functional.linear(features, weight, bias).flatten(0, 1),
        targets.flatten(),
        ignore_index=PAD,
        label_smoothing=smoothing,
        reduction="sum",
    )
    torch.testing.assert_close(loss.smoothed, expected)
    ours = torch.autograd.grad(loss.smoothed * 0.25, (features, weight, bias))
    theirs = torch.autograd.grad(expected * 0.25, (features, weight, bias))
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, atol=1e-5, rtol=1e-4)


def test_likelihood_is_not_smoothed(batch) -> None:
    features, weight, bias, targets = batch
    loss = smoothed_cross_entropy(features, weight, bias, targets, smoothing=0.3, pad=PAD)
    plain = smoothed_cross_entropy(features, weight, bias, targets, smoothing=0.0, pad=PAD)
    torch.testing.assert_close(loss.likelihood, plain.smoothed.detach())
    assert not loss.likelihood.requires_grad


def test_padding_is_not_counted(batch) -> None:
    features, weight, bias, targets = batch
    loss = smoothed_cross_entropy(features, weight, bias, targets, smoothing=0.1, pad=PAD)
    assert loss.positions == 4 * 9 - 4
    changed = features.detach().clone()
    changed[1, 5:] += 100
    again = smoothed_cross_entropy(changed, weight, bias, targets, smoothing=0.1, pad=PAD)
    torch.testing.assert_close(again.smoothed, loss.smoothed.detach())


@pytest.mark.parametrize("plain", [False, True])
def test_features_in_bfloat16_come_near(batch, plain) -> None:
    """As autocast leaves them; the weights' gradients are float32."""
    features, weight, bias, targets = batch
    narrow = features.detach().bfloat16().requires_grad_()
    with native.set_aside() if plain else nullcontext():
        loss = smoothed_cross_entropy(narrow, weight, bias, targets, smoothing=0.1, pad=PAD)
    exact = smoothed_cross_entropy(features, weight, bias, targets, smoothing=0.1, pad=PAD)
    assert float(loss.smoothed.detach()) == pytest.approx(float(exact.smoothed.detach()), rel=0.01)
    ours = torch.autograd.grad(loss.smoothed, (narrow, weight, bias))
    theirs = torch.autograd.grad(exact.smoothed, (features, weight, bias))
    assert [gradient.dtype for gradient in ours] == [torch.bfloat16, torch.float32, torch.float32]
    for mine, reference in zip(ours, theirs, strict=True):
        assert float((mine.float() - reference).norm() / reference.norm()) < 0.02
