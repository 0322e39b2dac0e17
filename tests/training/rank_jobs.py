"""What two processes do together in the tests of several processes; each writes what it found."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

from training import report
from training.config import Recipe
from training.distributed import Group, join_group
from training.stop import Stop
from training.trainer import Trainer

RANKS = 2


def work(rank: int, port: int, folder: Path, recipes: dict[str, str]) -> None:
    """A rank: joins the group as torchrun would have it, does its part of every job, saves it in ``folder``."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(RANKS), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    report.draw_curves = lambda *_: None  # what takes longest
    jobs = {name: Recipe.model_validate_json(text) for name, text in recipes.items()}
    with join_group(jobs["gradient"]) as group:
        found = {
            "gradient": gradient(jobs["gradient"], group),
            "taught_gradient": gradient(jobs["taught_gradient"], group),
            "whole": run(jobs["whole"], group, stop_at=None),
            "stopped": run(jobs["broken"], group, stop_at=3 if rank == 1 else None),
            "resumed": run(jobs["broken"], group, stop_at=None, resume=True),
            "poisoned": run(jobs["poisoned"], group, stop_at=None, poisoned=2 if rank == 1 else None),
            "mixed_whole": run(jobs["mixed_whole"], group, stop_at=None),
            "mixed_stopped": run(jobs["mixed_broken"], group, stop_at=5 if rank == 1 else None),
            "mixed_resumed": run(jobs["mixed_broken"], group, stop_at=None, resume=True),
        }
    torch.save(found, folder / f"rank{rank}.pt")


def gradient(recipe: Recipe, group: Group) -> dict[str, Tensor]:
    """The gradient of the first step."""
    trainer = Trainer(recipe, recipe.folder, group)
    loader = trainer._loader()
    trainer._gradients(next(loader))
    loader.close()
    return {name: weight.grad.clone() for name, weight in trainer.model.named_parameters() if weight.grad is not None}


class StopAt(Stop):
    """A signal that comes during step ``step``."""

    def __init__(self, trainer: Trainer, step: int) -> None:
        self._trainer, self._step = trainer, step

    @property
    def requested(self) -> bool:  # type: ignore[override]
        return self._trainer.progress.step + 1 >= self._step


def run(
    recipe: Recipe, group: Group, stop_at: int | None, resume: bool = False, poisoned: int | None = None
) -> dict[str, object]:
    """A run, stopped by a signal to this rank in step ``stop_at``, with no finite loss here in step ``poisoned``."""
    trainer = Trainer(recipe, recipe.folder, group)
    if resume:
        trainer.restore()
    else:
        trainer.begin()
    forward, numbers = trainer.loss.forward, count(1)

    def loss(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        smoothed, likelihood = forward(*inputs)
        factor = float("nan") if next(numbers) == poisoned else 1.0
        return smoothed * factor, likelihood * factor

    if poisoned is not None:
        trainer.loss.forward = loss  # type: ignore[method-assign]
    result = trainer.run(Stop() if stop_at is None else StopAt(trainer, stop_at))
    weights = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    draw = float(torch.rand(()))
    return {"result": tuple(result), "weights": weights, "draw": draw}
