"""What the tests of the training loop share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_runs import begin, prepare, tiny_recipe, write_capitals

from training.config import Recipe


@pytest.fixture(scope="session")
def capitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pairs whose target is the source in capitals."""
    folder = tmp_path_factory.mktemp("capitals")
    write_capitals(folder)
    return folder


@pytest.fixture(scope="session")
def prepared(capitals: Path) -> Path:
    """Their tokenizer and corpora."""
    return prepare(capitals)


@pytest.fixture
def recipe(capitals: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Recipe]:
    """A function from options to a recipe whose run folder is begun; its curves are not drawn, which takes longest."""
    monkeypatch.setattr("training.report.draw_curves", lambda *_: None)

    def make(name: str = "run", seed: int = 1, **options: object) -> Recipe:
        return begin(tiny_recipe(capitals, tmp_path, name, seed, **options), prepared)  # type: ignore[arg-type]

    return make
