"""Ancestral sampling: translations drawn from the model's own distribution, piece by piece.

Training draws synthetic sources by it (Edunov et al. 2018, section 3); the service only searches.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from model.config import LengthLimit, ModelConfig
from model.ensemble import Ensemble, Model, as_ensemble
from model.padding import pad_sources


@torch.inference_mode()
def sample(
    model: Model,
    sources: Sequence[Sequence[int]],
    seeds: Sequence[int],
    length_limit: LengthLimit,
    temperature: float = 1.0,
    token_budget: int = 8192,
) -> list[tuple[int, ...]]:
    """Draw a translation of each of ``sources`` (ids without begin- or end-of-sentence), end-of-sentence left out.

    A sentence draws from its own seed (0 or above), so what becomes of it does not depend on its batch mates, of which
    there are as many as ``token_budget`` padded source positions hold. Probabilities are raised to the power
    ``1 / temperature``: below 1 likely pieces become likelier. Padding and begin-of-sentence are never drawn; at the
    length limit the sentence ends. Raises ValueError for an empty source and a temperature that is not above 0,
    ArithmeticError where the model's scores are no numbers.
    """
    if temperature <= 0:
        raise ValueError(f"the temperature is {temperature}; it must be above 0")
    if not all(sources):
        raise ValueError("a source is empty; give it at least one piece")
    draws = [_draws(seed, length_limit.limit(len(source))) for seed, source in zip(seeds, sources, strict=True)]
    results: list[tuple[int, ...]] = [() for _ in sources]
    for places in _batches(sources, token_budget):
        batch = [sources[place] for place in places]
        found = _sample_batch(as_ensemble(model), batch, [draws[place] for place in places], temperature)
        for place, pieces in zip(places, found, strict=True):
            results[place] = tuple(pieces)
    return results


def _draws(seed: int, count: int) -> list[float]:
    """All that chance decides of a sentence: a number in [0, 1) for each piece that it may have."""
    generator = random.Random(seed)
    return [generator.random() for _ in range(count)]


def _batches(sources: Sequence[Sequence[int]], token_budget: int) -> Iterator[list[int]]:
    """Places of sentences of like length, longest first, whose padded positions fit the budget."""
    batch: list[int] = []
    for place in sorted(range(len(sources)), key=lambda place: -len(sources[place])):
        if batch and (len(sources[batch[0]]) + 1) * (len(batch) + 1) > token_budget:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _sample_batch(
    model: Ensemble, sources: Sequence[Sequence[int]], draws: Sequence[Sequence[float]], temperature: float
) -> list[list[int]]:
    """Step all sentences together; those that have ended, or have no draw left, leave."""
    config, device = model.config, model.device
    memory = model.encode(*pad_sources(sources, config, device))
    state, token = model.start(memory), torch.full((len(sources),), config.bos, device=device)
    found: list[list[int]] = [[] for _ in sources]
    under_way = list(range(len(sources)))
    for position in range(max(map(len, draws))):
        # A sentence that has ended holds fewer pieces than there were positions.
        staying = [row for row, at in enumerate(under_way) if len(found[at]) == position < len(draws[at])]
        if not staying:
            break
        if len(staying) < len(under_way):
            under_way = [under_way[row] for row in staying]
            rows = torch.tensor(staying, device=device)
            memory, state, token = memory.select(rows), state.select(rows), token[rows]
        logits, state = model.step(state, token, memory)
        numbers = torch.tensor([draws[at][position] for at in under_way], dtype=torch.float64, device=device)
        token = _pieces(logits, numbers, config, temperature)
        for at, piece in zip(under_way, token.tolist(), strict=True):
            if piece != config.eos:
                found[at].append(piece)
    return found


def _pieces(logits: Tensor, numbers: Tensor, config: ModelConfig, temperature: float) -> Tensor:
    """The pieces (N) where the distributions of ``logits`` (N, V), summed up by id, pass ``numbers`` (N) float64."""
    scores = logits.double() / temperature
    scores[:, [config.pad, config.bos]] = -torch.inf
    cumulative = torch.softmax(scores, dim=-1).cumsum(dim=-1)
    total = cumulative[:, -1:]
    if not bool(torch.isfinite(total).all()):
        raise ArithmeticError("nothing can be drawn: the model's scores are no numbers")
    # The first piece whose sum lies above the number: one of no probability adds nothing and is never it.
    return torch.searchsorted(cumulative, numbers.unsqueeze(1) * total, right=True).squeeze(1)
