"""Freezing: parameters that keep the values they begin with, named by glob patterns (Zoph et al. 2016)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import nn


class FreezingError(Exception):
    """The names to freeze are not those of the model."""


def freeze(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Let the parameters whose names match a glob pattern learn nothing; returns their names.

    Raises FreezingError for a pattern that matches nothing, and where nothing is left to learn.
    """
    parameters = dict(model.named_parameters())
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in parameters):
            near = difflib.get_close_matches(pattern, _with_groups(parameters), n=4, cutoff=0.4)
            top = dict.fromkeys(re.sub(r"\..*", ".*", name) for name in parameters)
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are {', '.join(top)}"
            raise FreezingError(f"training.freeze: {pattern!r} matches no parameter; {hint}")
    frozen = [name for name in parameters if any(fnmatchcase(name, pattern) for pattern in patterns)]
    if len(frozen) == len(parameters):
        raise FreezingError(f"training.freeze: {list(patterns)} match every parameter, so nothing is left to learn")
    for name in frozen:
        parameters[name].requires_grad_(False)
    return frozen


def _with_groups(names: Iterable[str]) -> list[str]:
    """The names, and a pattern for everything below each of their prefixes."""
    groups: dict[str, None] = {}
    for name in names:
        parts = name.split(".")
        groups.update({".".join([*parts[:end], "*"]): None for end in range(1, len(parts))})
        groups[name] = None
    return list(groups)
