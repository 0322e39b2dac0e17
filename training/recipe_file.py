"""Reading a recipe: YAML, environment variables, overrides, and errors that say where and what would be right."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import types
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from training.config import Recipe

VARIABLE_DEFAULTS: Mapping[str, str] = {"FERRY_DATA": "../shared/data"}

Tree: TypeAlias = "dict[str, Tree] | list[Tree] | str | int | float | bool | None"
Location: TypeAlias = tuple[int | str, ...]


class RecipeError(ValueError):
    """A recipe cannot be used. The message names the file and the key, and what would be right."""


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in ``path`` with ``key=value`` overrides (dotted keys, YAML values) and ``${VARIABLE}`` filled in.

    Raises RecipeError.
    """
    tree = _read(path)
    for override in overrides:
        tree = _override(tree, override)
    try:
        return Recipe.model_validate(_expand(tree, (), path))
    except ValidationError as error:
        lines = [f"{path}: {_explain(details)}" for details in _causes(error.errors())]
        if overrides:
            lines.append("(with " + " ".join(f"--set {override}" for override in overrides) + ")")
        raise RecipeError("\n".join(lines)) from None


def dump_recipe(recipe: Recipe) -> str:
    """The whole recipe as YAML, defaults included; it reads back as the same recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def recipe_sha256(recipe: Recipe) -> str:
    """SHA-256 of :func:`dump_recipe` in UTF-8, as 64 hexadecimal digits."""
    return hashlib.sha256(dump_recipe(recipe).encode()).hexdigest()


class _UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys in silence; here that is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key_node.value!r} twice", problem_mark=key_node.start_mark)
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def _read(path: Path) -> Tree:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{path}: the recipe cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: the recipe is not UTF-8 (byte {error.start})") from error
    try:
        tree: Tree = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise RecipeError(f"{path}: a recipe is a YAML mapping of keys such as name, data, training, export")
    return tree


def _override(tree: Tree, override: str) -> Tree:
    """``tree`` with one dotted key set; list members are numbered from 0."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"--set {override}: must be key=value, such as training.max_steps=1000")
    try:
        value: Tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {override}: the value is not valid YAML: {error}") from error
    return _replace(tree, key.split("."), value, override)


def _replace(tree: Tree, keys: Sequence[str], value: Tree, override: str) -> Tree:
    if not keys:
        return value
    head, *rest = keys
    if isinstance(tree, dict) or tree is None:
        branch = tree or {}
        return {**branch, head: _replace(branch.get(head), rest, value, override)}
    if isinstance(tree, list):
        if not head.isdecimal() or int(head) >= len(tree):
            raise RecipeError(f"--set {override}: {head!r} must be a number from 0 to {len(tree) - 1}: it is a list")
        position = int(head)
        return [*tree[:position], _replace(tree[position], rest, value, override), *tree[position + 1 :]]
    raise RecipeError(f"--set {override}: there is no key {head!r} inside the value {tree!r}")


def _expand(tree: Tree, location: Location, path: Path) -> Tree:
    if isinstance(tree, dict):
        return {key: _expand(value, (*location, key), path) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_expand(value, (*location, index), path) for index, value in enumerate(tree)]
    if isinstance(tree, str):
        return re.sub(r"\$\{(\w+)\}", lambda match: _variable(match.group(1), location, path), tree)
    return tree


def _variable(name: str, location: Location, path: Path) -> str:
    value = os.environ.get(name) or VARIABLE_DEFAULTS.get(name)
    if value is None:
        raise RecipeError(f"{path}: {_dotted(location)}: the environment variable {name} is not set")
    return value


def _causes(errors: list[ErrorDetails]) -> list[ErrorDetails]:
    """Without the errors that only follow from others: a list whose one member is wrong also counts as too short."""
    return [
        error
        for error in errors
        if error["type"] != "too_short"
        or not any(len(other["loc"]) > len(error["loc"]) == _common(other["loc"], error["loc"]) for other in errors)
    ]


def _common(first: Location, second: Location) -> int:
    return sum(1 for left, right in zip(first, second, strict=False) if left == right)


def _explain(details: ErrorDetails) -> str:
    """One validation error as a sentence that names the key."""
    location = details["loc"]
    if details["type"] == "extra_forbidden":
        known = _known_keys(location[:-1])
        near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys here: {', '.join(known)}"
        return f"unknown key {_dotted(location)!r}; {hint}"
    if details["type"] == "missing":
        return f"the key {_dotted(location)!r} is missing"
    message = details["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if not location:
        return message
    if details["type"] == "value_error":
        return f"{_dotted(location)}: {message}"
    value = details["input"]
    hint = " (YAML reads no, off, yes and on as true or false: quote the word)" if isinstance(value, bool) else ""
    return f"{_dotted(location)}: {message}, not {value!r}{hint}"


def _dotted(location: Location) -> str:
    return ".".join(map(str, location))


def _known_keys(location: Location) -> list[str]:
    """Keys of the section at ``location``, found by walking the types of the fields."""
    section: type[BaseModel] = Recipe
    for part in location:
        if isinstance(part, str) and part in section.model_fields:
            section = _section(section.model_fields[part].annotation) or section
    return list(section.model_fields)


def _section(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (tuple, dict, Union, types.UnionType):
        return next((found for found in map(_section, get_args(annotation)) if found), None)
    return None
