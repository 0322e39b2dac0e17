"""The best extensions, found in two stages or by the operator in C++, are those of a full sort: by cost, then place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.search.extensions import NEVER, PLACES, Columns, Forced, best_extensions

END, BARRED = 3, (3, 0, 2)
INFINITE = float("inf")

pytestmark = pytest.mark.usefixtures("either_way")


def columns_of(count: int) -> Columns:
    return Columns(count, END, torch.tensor(BARRED))


def random_costs(generator: torch.Generator, sentences: int, rows: int) -> Tensor:
    """Rising costs as a beam has them, some rows dead, some equal."""
    costs = torch.rand(sentences, rows, generator=generator).mul(8).round().div(4).sort(dim=1).values
    costs[:, 1:][torch.rand(sentences, rows - 1, generator=generator) < 0.2] = INFINITE
    return costs.sort(dim=1).values


def assert_same(found: NDArray[np.int64], wanted: NDArray[np.int64]) -> None:
    """The same places in the same order; costs to a rounding or two, as exponentials are summed in other orders."""
    alive = wanted < NEVER
    assert np.array_equal(found < NEVER, alive)
    assert np.array_equal(found[alive] % PLACES, wanted[alive] % PLACES)
    costs = [(keys[alive] >> 32).astype(np.int32).view(np.float32) for keys in (found, wanted)]
    np.testing.assert_allclose(*costs, rtol=5e-7)


def expected(logits: Tensor, costs: Tensor, width: int, columns: Columns) -> tuple[NDArray[np.int64], ...]:
    """Keys that go on and keys that end, by sorting all of them."""
    sentences, rows = costs.shape
    scores = torch.log_softmax(logits, dim=-1).view(sentences, rows, -1).numpy()
    each = np.abs(costs.numpy()[:, :, None] - scores).view(np.int32).astype(np.int64)
    row = np.arange(sentences * rows).reshape(sentences, rows, 1)
    keys = each * PLACES + row * columns.padded + np.arange(columns.size)
    ends = keys[:, :, END].copy()
    keys[:, :, BARRED] = np.iinfo(np.int64).max
    return np.sort(keys.reshape(sentences, -1), axis=1)[:, :width], ends


# Whole vocabularies of one chunk, of chunks that divide them, and of chunks that do not (613 and 1009 are prime).
@pytest.mark.parametrize("count", [12, 256, 500, 613, 1000, 1009])
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("ties", [False, True])
def test_they_are_the_first_of_all_in_order(count: int, rows: int, ties: bool) -> None:
    generator = torch.Generator().manual_seed(count + rows)
    logits = torch.randn(6 * rows, count, generator=generator) * 3
    logits = logits.round() if ties else logits
    costs, columns = random_costs(generator, 6, rows), columns_of(count)
    going, ends = expected(logits, costs, 4, columns)
    found = best_extensions(logits, costs, 4, columns, None).numpy()
    assert_same(found[:, :4], going)
    assert_same(found[:, 4:], ends)


def test_there_may_be_fewer_than_wanted() -> None:
    """A first row of twelve columns has twelve extensions, nine of which go on."""
    found = best_extensions(torch.randn(2, 12), torch.zeros(2, 1), 40, columns_of(12), None)
    assert found.shape[1] in (12 + 1, 40 + 1)  # what lacks may be filled up
    assert ((found[:, :-1] < NEVER).sum(dim=1) == 9).all()


def test_what_is_no_number_comes_after_everything() -> None:
    logits = torch.randn(4, 600)
    logits[1, 7] = float("nan")
    found = best_extensions(logits, torch.zeros(2, 2), 6, columns_of(600), None)
    assert (found[0, :6] % PLACES < 600).all()
    assert (found[:, :6] < NEVER).all()
    assert (found[0, 6] < NEVER) and (found[0, 7] > NEVER)


@pytest.mark.parametrize("count", [12, 1009])
def test_where_a_piece_is_prescribed_only_that_may_follow(count: int) -> None:
    logits, costs, columns = torch.randn(6, count), torch.tensor([[0.5, INFINITE]] * 3), columns_of(count)
    value = 0.5 - torch.log_softmax(logits[2], dim=-1)[9]
    free = best_extensions(logits.clone(), costs, 3, columns, None)
    found = best_extensions(logits, costs, 3, columns, Forced(torch.tensor([1]), torch.tensor([9])))
    only = np.array([int(value.view(torch.int32)) * PLACES + 2 * columns.padded + 9] + [NEVER] * 4)
    assert_same(found[1].numpy(), only)
    assert torch.equal(found[[0, 2]], free[[0, 2]])


def test_rows_are_ranked_alike_alone_and_among_others() -> None:
    logits, costs = torch.randn(40, 1000), torch.rand(8, 5).sort(dim=1).values
    together = best_extensions(logits.clone(), costs, 5, columns_of(1000), None)
    for slot in range(8):
        rows = logits[slot * 5 : slot * 5 + 5].clone()
        found = best_extensions(rows, costs[slot : slot + 1], 5, columns_of(1000), None)
        assert torch.equal(found[0] + slot * 5 * 1000, together[slot])


@pytest.mark.parametrize("seed", range(20))
def test_what_others_may_write_changes_no_bit_of_a_cost(seed: int) -> None:
    """Twenty pieces alone, and the same in their order among 400 that are ruled out."""
    generator = torch.Generator().manual_seed(seed)
    logits, costs = torch.randn(3, 20, generator=generator) * 4, torch.tensor([[0.25, 1.5, 2.0]])
    places = torch.cat([torch.arange(4), 4 + torch.randperm(396, generator=generator)[:16].sort().values])
    among = torch.full((3, 400), -INFINITE)
    among[:, places] = logits
    alone = best_extensions(logits.clone(), costs, 5, Columns(20, END, torch.tensor(BARRED), True), None)
    found = best_extensions(among, costs, 5, Columns(400, END, torch.tensor(BARRED), True), None)
    assert torch.equal(found // PLACES, alone // PLACES)
    padded = Columns(400, END, torch.tensor(BARRED), True).padded
    assert (found % PLACES % padded).tolist() == places[alone % PLACES % 20].tolist()
    free = best_extensions(logits.clone(), costs, 5, Columns(20, END, torch.tensor(BARRED)), None)
    assert_same(alone.numpy(), free.numpy())
