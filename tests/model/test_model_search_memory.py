"""The buffers of encoded sources hold what plain selecting, joining and padding would."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from tiny_models import random_sources, tiny_model

from model.ensemble import EnsembleMemory, as_ensemble
from model.padding import pad_sources
from model.search.batch import filled
from model.search.memory import SlotMemory

MODEL = as_ensemble(tiny_model(4))


def encoded(seed: int, count: int, longest: int) -> EnsembleMemory:
    return MODEL.encode(*pad_sources(random_sources(seed, count, longest), MODEL.config, MODEL.device))


def same(found: EnsembleMemory, wanted: EnsembleMemory) -> None:
    for one, other in zip(found.members, wanted.members, strict=True):
        for part, expected in zip(one, other, strict=True):
            assert torch.equal(part, expected)


def needed(memory: EnsembleMemory) -> int:
    return int(memory.mask.sum(dim=1).max())


@pytest.mark.parametrize("seed", range(8))
def test_they_hold_what_copies_would(seed: int) -> None:
    choose = random.Random(seed)
    plain = encoded(seed, 5, 7)
    slots = SlotMemory(plain.select(torch.arange(5)))
    for turn in range(12):
        kept = np.array([choose.random() < 0.7 for _ in range(slots.count)])
        kept[choose.randrange(len(kept))] = True
        order = filled(kept)
        arrivals = [encoded(100 * seed + turn, choose.randint(1, 4), 9) for _ in range(choose.randrange(3))]
        plain = plain.select(torch.from_numpy(order))
        positions = max(map(needed, [plain, *arrivals]))
        plain = plain.resize(positions)
        for arrival in arrivals:
            plain = plain.join(arrival.resize(positions))
        slots.keep(order)
        slots.fit(arrivals, positions)
        same(slots.view, plain)


def test_what_is_kept_keeps_its_place_where_it_can() -> None:
    order = filled(np.array([True, False, True, True, False, True, True]))
    assert order.tolist() == [0, 5, 2, 3, 6]


def test_memory_is_given_back_when_most_have_left() -> None:
    slots = SlotMemory(encoded(1, 20, 7))
    slots.keep(np.arange(9))
    held = [part.untyped_storage().nbytes() for part in slots.view.members[0]]
    assert held == [part.numel() * part.element_size() for part in slots.view.members[0]]
