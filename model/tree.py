"""One function over every tensor of a nested state: how states of any shape are selected, joined and resized."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

Tree = TypeVar("Tree")


def select_rows(tree: Tree, rows: Tensor) -> Tree:
    """``tree`` with ``rows`` (N') int64 of the first dimension of each of its tensors."""
    return map_tensors(lambda part: part.index_select(0, rows), tree)


def join_rows(first: Tree, second: Tree) -> Tree:
    """Two trees of one shape as one, the rows of ``second`` below those of ``first``."""
    return map_tensors(lambda *parts: torch.cat(parts), first, second)


def map_tensors(function: Callable[..., Tensor], first: Tree, *others: Tree) -> Tree:
    """``function`` of the tensors that stand at the same place in each tree, as a tree of the same shape.

    A tree is a tensor, None, or a tuple or NamedTuple of trees. Raises TypeError for anything else, ValueError for
    tuples of unequal length.
    """
    mapped = _map(function, first, *others)
    assert isinstance(mapped, type(first))
    return mapped


def _map(function: Callable[..., Tensor], *trees: object) -> object:
    first = trees[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        return function(*trees)
    if not isinstance(first, tuple):
        raise TypeError(f"a state is made of tensors, None and tuples of them, not of {type(first).__name__}")
    parts = [_map(function, *branches) for branches in zip(*map(_branches, trees), strict=True)]
    made: object = getattr(first, "_make", tuple)(parts)  # a NamedTuple's constructor takes its fields one by one
    return made


def _branches(tree: object) -> tuple[object, ...]:
    if not isinstance(tree, tuple):
        raise TypeError(f"a tuple was to be joined with a {type(tree).__name__}: the states are of different models")
    return tree
