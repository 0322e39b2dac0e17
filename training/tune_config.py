"""The section ``tune`` of a recipe: which values of which keys ``ferry-train tune`` tries."""

from __future__ import annotations

from typing import TypeAlias

from pydantic import Field, model_validator

from model.config import Frozen

Choice: TypeAlias = bool | int | float | str | None


class Dimension(Frozen):
    """The values of one key: a list of choices, or a range ``{low, high}`` with ``log: true`` or a ``step``."""

    choices: tuple[Choice, ...] = Field((), description="What a plain list stands for.")
    low: int | float | None = None
    high: int | float | None = Field(None, description="The range includes both ends.")
    log: bool = Field(False, description="Draw evenly by order of magnitude.")
    step: int | float | None = Field(None, gt=0, description="Distance between values, counted from low.")

    @model_validator(mode="before")
    @classmethod
    def _list_of_choices(cls, values: object) -> object:
        return {"choices": values} if isinstance(values, list | tuple) else values

    @model_validator(mode="after")
    def _one_form(self) -> Dimension:
        is_range = self.low is not None and self.high is not None
        if bool(self.choices) == is_range or (self.choices and (self.log or self.step)):
            raise ValueError("must be a list of values, or a range with low and high (and log or step)")
        if self.choices and len(set(map(repr, self.choices))) < max(2, len(self.choices)):
            raise ValueError("a list of choices needs at least two, all different")
        if self.low is not None and self.high is not None:
            self._check_range(self.low, self.high)
        return self

    def _check_range(self, low: float, high: float) -> None:
        if low >= high:
            raise ValueError(f"low ({low}) must be below high ({high})")
        if self.log and low <= 0:
            raise ValueError(f"log needs a low above 0, not {low}")
        if self.log and self.step is not None:
            raise ValueError("log and step exclude each other")
