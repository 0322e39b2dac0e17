"""Attention: each kind projects the encoder's outputs to keys once, then weighs them for any number of queries.

Every kind is ``project(outputs) -> keys`` and ``forward(query, keys, values, mask) -> (context, weights)``. Shapes:
``query`` (B, Q, H), ``keys`` (B, S, A), ``values`` (B, S, H), ``mask`` (B, S) bool, true at real positions;
``context`` (B, Q, H); ``weights`` (B, Q, S), rows summing to one (for several heads: their mean).
Q is the number of positions in training, and the number of hypotheses of a sentence in search.

Keys may be float64 beside float32 queries. Then all sums over positions are float64, and what is rounded at the end
does not depend on how many positions and queries a batch was padded to (but for one rounding in some 10^8).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from model.native import Operators


class Attention(nn.Module):
    """Common ground: masked softmax over scores that a subclass computes."""

    def project(self, outputs: Tensor) -> Tensor:
        """Keys (B, S, A) of encoder outputs (B, S, H); called once per source sentence."""
        raise NotImplementedError

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """Unnormalised scores (B, Q, S)."""
        raise NotImplementedError

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Context (B, Q, H) and weights (B, Q, S)."""
        weights = _weights(self.scores(query, keys), mask.unsqueeze(1))
        wide = torch.promote_types(keys.dtype, values.dtype)
        return torch.bmm(weights.to(wide), values.to(wide)).to(values.dtype), weights


class DotAttention(Attention):
    """``score = q . k`` (Luong et al. 2015, section 3.1, dot)."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden

    def project(self, outputs: Tensor) -> Tensor:
        """The outputs are their own keys."""
        return outputs

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """Unnormalised scores (B, Q, S)."""
        return torch.bmm(query.to(keys.dtype), keys.transpose(1, 2))


class GeneralAttention(DotAttention):
    """``score = q . W k`` (Luong et al. 2015, section 3.1, general)."""

    def __init__(self, hidden: int) -> None:
        super().__init__(hidden)
        self.key = nn.Linear(hidden, hidden, bias=False)

    def project(self, outputs: Tensor) -> Tensor:
        """``W`` applied to the outputs."""
        keys: Tensor = self.key(outputs)
        return keys


class AdditiveAttention(Attention):
    """``score = v . tanh(W q + U k)`` (Bahdanau et al. 2015, equation in appendix A.1.2)."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(hidden, hidden, bias=False)
        self.energy = nn.Linear(hidden, 1, bias=False)

    def project(self, outputs: Tensor) -> Tensor:
        """``U`` applied to the outputs."""
        keys: Tensor = self.key(outputs)
        return keys

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """Unnormalised scores (B, Q, S); needs (B, Q, S, H) for a moment."""
        queries = self.query(query)
        energy = torch.tanh(queries.unsqueeze(2) + keys.to(queries.dtype).unsqueeze(1))  # (B, Q, S, H)
        scores: Tensor = self.energy(energy).squeeze(-1)
        return scores.to(keys.dtype)


class MultiHeadAttention(Attention):
    """Scaled dot attention in several subspaces (Vaswani et al. 2017, section 3.2.2); keys carry their values along."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads, self.width = heads, hidden // heads
        self.query = nn.Linear(hidden, hidden, bias=False)
        self.key_value = nn.Linear(hidden, 2 * hidden, bias=False)
        self.output = nn.Linear(hidden, hidden, bias=False)

    def project(self, outputs: Tensor) -> Tensor:
        """Keys and values side by side, (B, S, 2H): both are projected once."""
        projected: Tensor = self.key_value(outputs)
        return projected

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Context (B, Q, H) and the heads' mean weights (B, Q, S); ``values`` are taken from ``keys``."""
        context, weights = self.attend(self.query(query), keys, mask)
        mixed: Tensor = self.output(context)
        return mixed, weights

    def attend(self, query: Tensor, keys: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The heads' contexts side by side (B, Q, H) and their mean weights; ``query`` is projected."""
        batch, queries, hidden = query.shape
        positions = keys.shape[1]
        heads = query.view(batch, queries, self.heads, self.width).transpose(1, 2)  # (B, N, Q, W)
        pairs = keys.view(batch, positions, 2, self.heads, self.width).permute(2, 0, 3, 1, 4)  # (2, B, N, S, W)
        scores = heads.to(pairs.dtype) @ pairs[0].transpose(-1, -2) / math.sqrt(self.width)  # (B, N, Q, S)
        weights = _weights(scores, mask[:, None, None, :])
        context = (weights.to(pairs.dtype) @ pairs[1]).to(heads.dtype)  # (B, N, Q, W)
        return context.transpose(1, 2).reshape(batch, queries, hidden), weights.mean(dim=1)


class NativeMultiHeadAttention(MultiHeadAttention):
    """The same for inference, on a CPU with the operators of :mod:`model.native`.

    They add up position by position and leave out what is padding, so that float32 depends on no padding either.
    """

    def __init__(self, attention: MultiHeadAttention, native: Operators) -> None:
        """Takes ``attention`` over."""
        nn.Module.__init__(self)
        self.heads, self.width, self.native = attention.heads, attention.width, native
        self.query, self.key_value, self.output = attention.query, attention.key_value, attention.output

    def attend(self, query: Tensor, keys: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`MultiHeadAttention.attend`, in float32."""
        return self.native.attend(query, keys, mask, self.heads)


def _weights(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last dimension of ``scores``, float32 or better, where ``mask`` is true."""
    precise = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return torch.softmax(precise.masked_fill(~mask, -math.inf), dim=-1)


def build_attention(kind: str, hidden: int, heads: int) -> Attention:
    """The attention that ``kind`` names; a new one is a class above and a line here."""
    if kind == "multihead":
        return MultiHeadAttention(hidden, heads)
    return {"dot": DotAttention, "general": GeneralAttention, "additive": AdditiveAttention}[kind](hidden)
