"""Each attention against its formula in numpy, and what all of them promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.attention import AdditiveAttention, GeneralAttention, MultiHeadAttention, build_attention

KINDS = ["additive", "general", "dot", "multihead"]
BATCH, QUERIES, POSITIONS, HIDDEN, HEADS = 3, 4, 5, 6, 2
LENGTHS = torch.tensor([5, 1, 3])

Array = NDArray[np.floating]


@pytest.fixture
def query() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(BATCH, QUERIES, HIDDEN)


@pytest.fixture
def outputs() -> Tensor:
    torch.manual_seed(2)
    return torch.randn(BATCH, POSITIONS, HIDDEN)


@pytest.fixture
def mask() -> Tensor:
    return torch.arange(POSITIONS) < LENGTHS.unsqueeze(1)


def attend(kind: str, query: Tensor, outputs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    torch.manual_seed(3)
    attention = build_attention(kind, HIDDEN, HEADS)
    with torch.no_grad():
        context, weights = attention(query, attention.project(outputs), outputs, mask)
    return context, weights


def softmax(scores: Array) -> Array:
    exponents = np.exp(scores - scores.max())
    return exponents / exponents.sum()


def array(linear: nn.Linear) -> Array:
    return linear.weight.detach().numpy()


def expected_weights(kind: str, query: Array, outputs: Array) -> Array:
    """Weights (S) of one query (H) over the real positions (S, H), by the kind's formula."""
    torch.manual_seed(3)
    attention = build_attention(kind, HIDDEN, HEADS)
    if isinstance(attention, GeneralAttention):
        return softmax(np.array([query @ array(attention.key) @ key for key in outputs]))
    if isinstance(attention, AdditiveAttention):
        projected = array(attention.query) @ query + attention.query.bias.detach().numpy()
        energies = [np.tanh(projected + array(attention.key) @ key) for key in outputs]
        return softmax(np.array([(array(attention.energy) @ energy).item() for energy in energies]))
    return softmax(np.array([query @ key for key in outputs]))


@pytest.mark.parametrize("kind", ["additive", "general", "dot"])
def test_it_equals_its_formula(kind: str, query: Tensor, outputs: Tensor, mask: Tensor) -> None:
    context, weights = attend(kind, query, outputs, mask)
    for sentence, length in enumerate(LENGTHS.tolist()):
        values = outputs[sentence, :length].numpy()
        for position in range(QUERIES):
            expected = expected_weights(kind, query[sentence, position].numpy(), values)
            np.testing.assert_allclose(weights[sentence, position, :length].numpy(), expected, atol=1e-5)
            np.testing.assert_allclose(context[sentence, position].numpy(), expected @ values, atol=1e-5)


def test_multihead_equals_its_formula(query: Tensor, outputs: Tensor, mask: Tensor) -> None:
    context, weights = attend("multihead", query, outputs, mask)
    torch.manual_seed(3)
    attention = build_attention("multihead", HIDDEN, HEADS)
    assert isinstance(attention, MultiHeadAttention)
    width = HIDDEN // HEADS
    key_weight, value_weight = np.split(array(attention.key_value), 2)
    for sentence, length in enumerate(LENGTHS.tolist()):
        real = outputs[sentence, :length].numpy()
        for position in range(QUERIES):
            heads, contexts = [], []
            for head in range(HEADS):
                part = slice(head * width, (head + 1) * width)
                projected = array(attention.query)[part] @ query[sentence, position].numpy()
                heads.append(softmax(real @ key_weight[part].T @ projected / np.sqrt(width)))
                contexts.append(heads[-1] @ (real @ value_weight[part].T))
            expected = array(attention.output) @ np.concatenate(contexts)
            np.testing.assert_allclose(context[sentence, position].numpy(), expected, atol=1e-5)
            np.testing.assert_allclose(weights[sentence, position, :length].numpy(), np.mean(heads, axis=0), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_sum_to_one(kind: str, query: Tensor, outputs: Tensor, mask: Tensor) -> None:
    _, weights = attend(kind, query, outputs, mask)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(BATCH, QUERIES))


@pytest.mark.parametrize("kind", KINDS)
def test_padding_never_gets_weight(kind: str, query: Tensor, outputs: Tensor, mask: Tensor) -> None:
    _, weights = attend(kind, query, outputs * 100, mask)
    assert float(weights.masked_select(~mask.unsqueeze(1)).abs().max()) == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_in_padding_does_not_matter(kind: str, query: Tensor, outputs: Tensor, mask: Tensor) -> None:
    context, _ = attend(kind, query, outputs, mask)
    altered, _ = attend(kind, query, outputs.masked_fill(~mask.unsqueeze(-1), 99.0), mask)
    torch.testing.assert_close(altered, context)


@pytest.mark.parametrize("kind", KINDS)
def test_queries_do_not_see_each_other(kind: str, query: Tensor, outputs: Tensor, mask: Tensor) -> None:
    context, _ = attend(kind, query, outputs, mask)
    single, _ = attend(kind, query[:, 1:2], outputs, mask)
    torch.testing.assert_close(single, context[:, 1:2])
