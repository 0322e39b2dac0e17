"""A served model: who uses it, when its weights may leave memory, and how they come back."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest
from engine_harness import loaded, until

from app.catalogue import Catalogue
from app.engine import DeadlineError, NotReadyError
from app.served import ChangedCheckpointError, Facts, ServedModel


class Shelf:
    """Weights that are loaded when the test lets them."""

    def __init__(self) -> None:
        self.loads = 0
        self.unloaded: list[str] = []
        self.error: Exception | None = None
        self.open = threading.Event()
        self.open.set()

    def load_again(self, facts: Facts) -> str:
        assert self.open.wait(60)
        self.loads += 1
        if self.error is not None:
            raise self.error
        return f"again#{self.loads}"

    def unload(self, handle: str) -> None:
        self.unloaded.append(handle)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def model(tiny_checkpoint: Path, shelf: Shelf) -> ServedModel:
    (only,) = Catalogue.of([loaded(tiny_checkpoint)]).models
    return ServedModel(only.facts, "first#1", shelf)


async def name_of(model: ServedModel, deadline: float | None = None) -> str:
    async with model.in_use(deadline) as name:
        return name


def test_weights_that_nobody_uses_are_dropped_and_come_back_with_a_new_name(model: ServedModel, shelf: Shelf) -> None:
    async def story() -> list[str]:
        before = await name_of(model)
        assert await model.drop_if_unused(0)
        assert not model.loaded
        return [before, *await asyncio.gather(name_of(model), name_of(model)), await name_of(model)]

    assert asyncio.run(story()) == ["first#1", "again#1", "again#1", "again#1"]
    assert (shelf.unloaded, shelf.loads) == (["first#1"], 1)


def test_weights_in_use_or_used_of_late_are_kept(model: ServedModel, shelf: Shelf) -> None:
    async def story() -> None:
        async with model.in_use(None):
            assert not await model.drop_if_unused(0)
        assert not await model.drop_if_unused(3600)

    asyncio.run(story())
    assert model.loaded and shelf.unloaded == []


def test_a_model_that_retires_waits_for_those_who_use_it(model: ServedModel, shelf: Shelf) -> None:
    async def story() -> None:
        async with model.in_use(None) as name:
            retiring = asyncio.create_task(model.retire())
            await asyncio.sleep(0)
            assert shelf.unloaded == [] and name == "first#1"
        await retiring

    asyncio.run(story())
    assert shelf.unloaded == ["first#1"]


def test_a_deadline_that_passes_while_loading_ends_one_wait_and_not_the_loading(
    model: ServedModel, shelf: Shelf
) -> None:
    async def story() -> str:
        await model.drop_if_unused(0)
        shelf.open.clear()
        with pytest.raises(DeadlineError, match="en-de was not loaded within the deadline"):
            await name_of(model, time.monotonic() + 0.01)
        shelf.open.set()
        await until(lambda: model.loaded)
        return await name_of(model)

    assert asyncio.run(story()) == "again#1"


def test_weights_that_cannot_be_loaded_are_tried_again_by_the_next(model: ServedModel, shelf: Shelf) -> None:
    async def story() -> str:
        await model.drop_if_unused(0)
        shelf.error = OSError("no such file")
        with pytest.raises(NotReadyError, match="en-de could not be loaded again: no such file"):
            await name_of(model)
        shelf.error = None
        return await name_of(model)

    assert asyncio.run(story()) == "again#2"
    assert not model.outdated


def test_a_folder_that_holds_another_checkpoint_now_makes_the_model_outdated(model: ServedModel, shelf: Shelf) -> None:
    async def story() -> None:
        await model.drop_if_unused(0)
        shelf.error = ChangedCheckpointError(model.facts.folder)
        with pytest.raises(NotReadyError, match="holds another checkpoint now"):
            await name_of(model)

    asyncio.run(story())
    assert model.outdated
