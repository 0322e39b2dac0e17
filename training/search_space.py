"""A recipe's search space, checked against its keys, and how a trial draws values from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypeAlias

from optuna.trial import Trial

from training.config import Recipe
from training.recipe_file import RecipeError
from training.recipe_keys import check_value, nearest_key, number_type, recipe_keys
from training.run_folders import INCIDENTAL
from training.tune_config import Choice, Dimension

SearchSpace: TypeAlias = Mapping[str, Dimension]
Values: TypeAlias = Mapping[str, Choice]
# The dev score of a fit is greedy, and all trials share one seed so that they differ in their values alone.
_FIXED = INCIDENTAL | {"seed", "search"}


def check_space(space: SearchSpace) -> None:
    """Raises RecipeError for an empty space, an unknown key, or a value of another type than the key's."""
    if not space:
        raise RecipeError(
            "the recipe has no section tune; it maps keys to values to try, such as "
            "model.hidden: [256, 512] or training.learning_rate: {low: 0.0005, high: 0.005, log: true}"
        )
    for key, dimension in space.items():
        if key not in recipe_keys():
            raise RecipeError(f"tune: unknown key {key!r}; {nearest_key(key)}")
        if key.partition(".")[0] in _FIXED:
            raise RecipeError(f"tune: {key}: not a key that the dev score of a fit is to be tuned by")
        try:
            _check_dimension(key, dimension)
        except RecipeError as error:
            raise RecipeError(f"tune: {error}") from None


def draw(trial: Trial, space: SearchSpace) -> dict[str, Choice]:
    """The trial's value of each key; of a trial that is taken up again, the ones it had."""
    return {key: _draw(trial, key, dimension) for key, dimension in space.items()}


def overrides(values: Values) -> list[str]:
    """Values as ``key=value``, as ``--set`` takes them."""
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def own_values(recipe: Recipe, space: SearchSpace) -> dict[str, Choice] | None:
    """The recipe's own value of each key, if all of them lie in the space."""
    values = {key: _value(recipe, key) for key in space}
    return values if all(_contains(dimension, values[key]) for key, dimension in space.items()) else None


def _check_dimension(key: str, dimension: Dimension) -> None:
    if dimension.choices:
        for choice in dimension.choices:
            check_value(key, choice)
        return
    kind = number_type(key)
    if kind is None:
        raise RecipeError(f"{key} is not a number; give a list of values")
    ends = [number for number in (dimension.low, dimension.high, dimension.step) if number is not None]
    if kind is int and not all(float(number).is_integer() for number in ends):
        raise RecipeError(f"{key} is a whole number; so must be low, high and step")
    for end in (dimension.low, dimension.high):
        check_value(key, end)


def _draw(trial: Trial, key: str, dimension: Dimension) -> Choice:
    if dimension.choices:
        return trial.suggest_categorical(key, dimension.choices)
    assert dimension.low is not None and dimension.high is not None  # Dimension's validator holds this
    if number_type(key) is int:
        step = int(dimension.step or 1)
        return trial.suggest_int(key, int(dimension.low), int(dimension.high), step=step, log=dimension.log)
    return trial.suggest_float(key, dimension.low, dimension.high, step=dimension.step, log=dimension.log)


def _contains(dimension: Dimension, value: Choice) -> bool:
    if dimension.choices:
        # To Python True is 1.
        return any(choice == value and (type(choice) is bool) == (type(value) is bool) for choice in dimension.choices)
    if dimension.low is None or dimension.high is None or not isinstance(value, int | float):
        return False
    steps = (value - dimension.low) / (dimension.step or 1)
    on_grid = dimension.step is None or abs(steps - round(steps)) < 1e-9
    return dimension.low <= value <= dimension.high and on_grid


def _value(recipe: Recipe, key: str) -> Choice:
    found: object = recipe
    for part in key.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, bool | int | float | str) else None
