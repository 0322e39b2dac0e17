"""States of any shape are reordered and joined by one function."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from model.tree import join_rows, select_rows


class Leaf(NamedTuple):
    first: Tensor
    second: Tensor | None


class Branch(NamedTuple):
    leaves: tuple[Leaf, ...]
    other: Tensor


def branch(*rows: int) -> Branch:
    column = torch.tensor(rows)
    return Branch((Leaf(column, None), Leaf(column * 10, column.unsqueeze(1))), column + 5)


def lists(tree: Branch) -> list[object]:
    first, second = tree.leaves
    assert first.second is None and second.second is not None
    return [part.tolist() for part in (first.first, second.first, second.second, tree.other)]


def test_rows_are_reordered_repeated_and_dropped_everywhere() -> None:
    assert lists(select_rows(branch(1, 2, 3), torch.tensor([2, 0, 0]))) == lists(branch(3, 1, 1))


def test_trees_are_joined_place_by_place() -> None:
    assert lists(join_rows(branch(1, 2), branch(3))) == lists(branch(1, 2, 3))


def test_trees_of_other_shapes_are_refused() -> None:
    one, two = branch(1), branch(2)
    with pytest.raises(ValueError, match="shorter"):
        join_rows(one, two._replace(leaves=two.leaves[:1]))
    with pytest.raises(TypeError, match="Tensor"):
        join_rows(one, two._replace(leaves=two.other))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not of list"):
        select_rows((one, [two]), torch.tensor([0]))
