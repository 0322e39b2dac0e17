"""The tensors of a beam search: a batch of sentences, extended by a piece, joined, cut and reordered.

B slots hold a sentence each, K rows of a slot its hypotheses; K is the widest beam, narrower ones leave rows dead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from model.config import ModelConfig
from model.ensemble import Ensemble, EnsembleMemory, EnsembleState
from model.restriction import Restriction


class Batch(NamedTuple):
    """Tensors of all sentences in the search: B slots of K rows each."""

    memory: EnsembleMemory
    state: EnsembleState
    restriction: Restriction | None  # what the sentences may write, where there is a shortlist
    scores: Tensor  # (B, K) float32, log-probability of each live hypothesis, -inf for a dead row
    pieces: Tensor  # (B, K, L) int64, begin-of-sentence first
    length: Tensor  # (B) int64, pieces in each slot's hypotheses, begin-of-sentence not counted
    beam: Tensor  # (B) int64, the sentence's beam size
    limit: Tensor  # (B) int64
    prefix: Tensor  # (B, P) int64, -1 where nothing is forced

    def select(self, slots: Tensor) -> Batch:
        """Drop or reorder sentences."""
        width = self.scores.shape[1]
        rows = (slots.unsqueeze(1) * width + torch.arange(width, device=slots.device)).flatten()
        rest = (part.index_select(0, slots) for part in self[3:])
        restriction = self.restriction and self.restriction.select(slots)
        return Batch(self.memory.select(slots), self.state.select(rows), restriction, *rest)


class Extended(NamedTuple):
    """One step of the search: what lives on, and which of the 2K best extensions have ended."""

    live: Batch
    ended: Tensor  # (B, 2K) bool
    values: Tensor  # (B, 2K) float32, log-probabilities of the extensions
    candidates: Tensor  # (B, 2K, L) int64, the pieces before each extension


def extend(model: Ensemble, batch: Batch) -> Extended:
    """Extend every hypothesis by one piece and keep each sentence's best."""
    slots, width = batch.scores.shape
    last = batch.pieces.gather(2, batch.length.view(-1, 1, 1).expand(-1, width, 1)).flatten()
    outputs = batch.restriction.outputs if batch.restriction else ()
    logits, state = model.step(batch.state, last, batch.memory, outputs)
    scores = torch.log_softmax(logits.float(), dim=-1).view(slots, width, -1)
    scores = _constrain(scores, batch, model.config) + batch.scores.unsqueeze(-1)  # (B, K, V), or V of a shortlist
    vocabulary = scores.shape[-1]
    # Twice the beam: even if K extensions end, K others are there to live on.
    values, flat = _best(scores.view(slots, -1), 2 * width)  # (B, 2K)
    parent, piece = flat // vocabulary, flat % vocabulary
    if batch.restriction:
        piece = batch.restriction.pieces[piece]
    ends = piece == model.config.eos
    rank = torch.arange(values.shape[1], device=values.device)
    ended = ends & (rank < batch.beam.unsqueeze(1)) & (values > -math.inf)
    chosen = ends.sort(dim=1, stable=True).indices[:, :width]  # (B, K), the best of those that go on
    live_values = values.masked_fill(ends, -math.inf).gather(1, chosen)
    outside = torch.arange(width, device=values.device) >= batch.beam.unsqueeze(1)
    live_parent = parent.gather(1, chosen)
    rows = (torch.arange(slots, device=values.device).unsqueeze(1) * width + live_parent).flatten()
    candidates = _histories(batch.pieces, parent)
    live = batch._replace(
        state=state.select(rows),
        scores=live_values.masked_fill(outside, -math.inf),
        pieces=_append(_histories(batch.pieces, live_parent), piece.gather(1, chosen), batch.length + 1),
        length=batch.length + 1,
    )
    return Extended(live, ended, values, candidates)


def _best(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` highest of ``scores`` (B, N) and their indices, both (B, count), best first.

    Equal scores stand in the order of their indices. ``topk`` alone breaks ties as it pleases, differently for each
    ``count``, which depends on the widest beam in the batch.
    """
    values, index = scores.topk(count + 1, dim=1)
    last = values[:, count - 1]
    contested = (last == values[:, count]) & (last > -math.inf)
    index = index[:, :count].sort(dim=1).values
    if bool(contested.any()):
        rivals, bar = scores[contested], last[contested].unsqueeze(1)
        above, equal = ~(rivals <= bar), rivals == bar
        taken = above | (equal & (equal.cumsum(dim=1) <= count - above.sum(dim=1, keepdim=True)))
        index[contested] = taken.nonzero()[:, 1].view(-1, count)
    values, order = scores.gather(1, index).sort(dim=1, descending=True, stable=True)
    return values, index.gather(1, order)


def _constrain(scores: Tensor, batch: Batch, config: ModelConfig) -> Tensor:
    """Rule out padding and begin-of-sentence, all but the forced prefix, and all but the end at the length limit."""
    restriction = batch.restriction
    never = torch.tensor([config.pad, config.bos], device=scores.device)
    scores[:, :, restriction.places(never) if restriction else never] = -math.inf
    forced = torch.full_like(batch.length, -1)
    if batch.prefix.shape[1]:
        at = batch.length.clamp(max=batch.prefix.shape[1] - 1).unsqueeze(1)
        inside = batch.length < batch.prefix.shape[1]
        forced = torch.where(inside, batch.prefix.gather(1, at).squeeze(1), forced)
    forced = torch.where(batch.length >= batch.limit, torch.full_like(forced, config.eos), forced)
    forced = restriction.places(forced) if restriction else forced
    slots = (forced >= 0).nonzero().squeeze(1)
    if len(slots):
        allowed = torch.full((len(slots), scores.shape[-1]), -math.inf, device=scores.device)
        allowed.scatter_(1, forced[slots].unsqueeze(1), 0.0)
        scores[slots] += allowed.unsqueeze(1)
    return scores


def _histories(pieces: Tensor, parent: Tensor) -> Tensor:
    """Pieces (B, J, L) of the hypotheses ``parent`` (B, J) among ``pieces`` (B, K, L)."""
    return pieces.gather(1, parent.unsqueeze(-1).expand(-1, -1, pieces.shape[2]))


def _append(pieces: Tensor, piece: Tensor, position: Tensor) -> Tensor:
    """Write ``piece`` (B, K) at each slot's own ``position`` (B), growing the buffer when it is full."""
    if int(position.max()) >= pieces.shape[2]:
        pieces = functional.pad(pieces, (0, max(8, pieces.shape[2])))
    index = position.view(-1, 1, 1).expand(-1, pieces.shape[1], 1)
    return pieces.scatter(2, index, piece.unsqueeze(-1))


def join(first: Batch, second: Batch) -> Batch:
    """Both batches as one: as wide, as long and with as many source positions as the larger."""
    width = max(first.scores.shape[1], second.scores.shape[1])
    positions = max(first.memory.mask.shape[1], second.memory.mask.shape[1])
    length = max(first.pieces.shape[2], second.pieces.shape[2])
    prefix = max(first.prefix.shape[1], second.prefix.shape[1])
    one, other = (_resize(batch, width, positions, length, prefix) for batch in (first, second))
    rest = (torch.cat(parts) for parts in zip(one[3:], other[3:], strict=True))
    restriction = one.restriction.join(other.restriction) if one.restriction and other.restriction else None
    return Batch(one.memory.join(other.memory), one.state.join(other.state), restriction, *rest)


def trim(batch: Batch) -> Batch:
    """Give back the width, source positions and buffer that only sentences now gone needed."""
    positions = int(batch.memory.mask.sum(dim=1).max())
    return _resize(
        batch,
        width=int(batch.beam.max()),
        positions=positions,
        length=int(batch.length.max()) + 1,
        prefix=int((batch.prefix >= 0).sum(dim=1).max()) if batch.prefix.shape[1] else 0,
    )


def _resize(batch: Batch, width: int, positions: int, length: int, prefix: int) -> Batch:
    """Pad or cut a batch to the given sizes; what is cut is unused."""
    slots, old_width = batch.scores.shape
    pad = functional.pad
    if width != old_width:
        keep = torch.arange(width, device=batch.scores.device).clamp(max=old_width - 1)
        rows = (torch.arange(slots, device=keep.device).unsqueeze(1) * old_width + keep).flatten()
        batch = batch._replace(
            state=batch.state.select(rows),
            scores=pad(batch.scores, (0, width - old_width), value=-math.inf),
            pieces=batch.pieces.index_select(1, keep),
        )
    return batch._replace(
        memory=batch.memory.resize(positions),
        pieces=pad(batch.pieces, (0, length - batch.pieces.shape[2])),
        prefix=pad(batch.prefix, (0, prefix - batch.prefix.shape[1]), value=-1),
    )


def pad_sources(sources: Sequence[Sequence[int]], config: ModelConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """Sources as a model reads them: ids (B, S) int64 ending in end-of-sentence, padded, and lengths (B) int64."""
    return pad_ids([[*source, config.eos] for source in sources], config, device)


def pad_ids(rows: Sequence[Sequence[int]], config: ModelConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """Padded ids (B, L) int64 and their lengths (B) int64."""
    longest = max(map(len, rows))
    padded = [[*row] + [config.pad] * (longest - len(row)) for row in rows]
    return torch.tensor(padded, device=device), torch.tensor([len(row) for row in rows], device=device)
