"""The dotted keys of a recipe, found by walking its sections: which there are, and what each may hold."""

from __future__ import annotations

import difflib
from types import NoneType, UnionType
from typing import Union, get_args, get_origin

from pydantic import BaseModel, ValidationError, create_model
from pydantic.fields import FieldInfo

from model.config import Frozen, ModelConfig
from training.config import Recipe
from training.recipe_file import RecipeError


def recipe_keys() -> dict[str, FieldInfo]:
    """Every key of a recipe that holds a value or a list, such as ``model.hidden``, with its type and limits."""
    keys = _leaves(Recipe, "")
    # A recipe's model section leaves its limits to the model.
    model = {name: ModelConfig.model_fields[name.removeprefix("model.")] for name in keys if name.startswith("model.")}
    return {**keys, **model}


def full_key(name: str) -> str:
    """The dotted key that ``name`` is short for: ``cell`` means ``model.cell``. A dotted name stays as it is.

    Raises RecipeError where no key or several end in ``name``.
    """
    keys = recipe_keys()
    if name in keys or ("." in name and name.partition(".")[0] in Recipe.model_fields):
        return name
    found = [key for key in keys if key.rpartition(".")[2] == name]
    if len(found) > 1:
        raise RecipeError(f"{name!r} may mean {', '.join(found)}; give the whole key")
    if not found:
        raise RecipeError(f"unknown key {name!r}; {nearest_key(name)}")
    return found[0]


def nearest_key(name: str) -> str:
    """A hint at the key that was probably meant."""
    keys = recipe_keys()
    near = difflib.get_close_matches(name, keys, n=1, cutoff=0.5)
    by_end = {key.rpartition(".")[2]: key for key in reversed(keys)}
    near = near or [by_end[end] for end in difflib.get_close_matches(name.rpartition(".")[2], by_end, n=1, cutoff=0.5)]
    return f"did you mean {near[0]!r}?" if near else "`ferry-train fit RECIPE --dump` shows every key"


def check_value(key: str, value: object) -> None:
    """Raises RecipeError where ``value`` is of another type than the key's, or outside its limits."""
    field = recipe_keys()[key]
    assert field.annotation is not None  # every key of a recipe is typed
    probe = create_model("Probe", __base__=Frozen, value=(field.annotation, field))
    try:
        probe.model_validate({"value": value})
    except ValidationError as error:
        message = error.errors()[0]["msg"]
        raise RecipeError(f"{key}: {message[:1].lower()}{message[1:]}, not {value!r}") from None


def number_type(key: str) -> type[int] | type[float] | None:
    """Whether the key holds whole numbers or any numbers; None for words, switches and lists."""
    annotation = recipe_keys()[key].annotation
    kinds = set(get_args(annotation)) - {NoneType} if get_origin(annotation) in (Union, UnionType) else {annotation}
    if kinds == {int}:
        return int
    return float if kinds in ({float}, {int, float}) else None


def _leaves(section: type[BaseModel], prefix: str) -> dict[str, FieldInfo]:
    leaves: dict[str, FieldInfo] = {}
    for name, field in section.model_fields.items():
        options = get_args(field.annotation) or (field.annotation,)
        inner = [option for option in options if isinstance(option, type) and issubclass(option, BaseModel)]
        is_section = inner and get_origin(field.annotation) in (None, Union, UnionType)
        if is_section:
            leaves |= _leaves(inner[0], f"{prefix}{name}.")
        else:
            leaves[prefix + name] = field
    return leaves
