"""What a step does to the weights: clipping, AdamW, and the moving average; or nothing, where it is not finite."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from model.seq2seq import Seq2Seq
from training.config import Recipe


class Update(NamedTuple):
    """What became of a step, on the device of the weights."""

    norm: Tensor  # scalar float32, of the gradient before clipping
    finite: Tensor  # scalar bool; false: weights, optimizer and average are as they were


class Updater:
    """The weights, their optimizer and their average.

    A step is taken only if its loss and the norm of its gradient are finite. Where the host reads along (on a CPU) it
    decides. On a GPU reading would make it wait for the step, so there the device decides: the fused AdamW leaves
    weights, moments and its count of steps alone where ``found_inf`` is set, as it does for a gradient scaler, and the
    average moves by a distance that the same flag multiplies by zero. The host learns of it when it reads the figures.
    """

    def __init__(self, model: Seq2Seq, average: Seq2Seq, recipe: Recipe, *, on_device: bool) -> None:
        """``on_device``: the device decides whether the step is taken, and the host does not wait for it."""
        self.model, self.average, self.config, self.on_device = model, average, recipe.training, on_device
        self.optimizer = build_optimizer(model, recipe)

    def step(self, loss: Tensor, rate: float, step: int) -> Update:
        """Step ``step``, counted from 1, at learning rate ``rate``; ``loss`` is a scalar, the gradients are there."""
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        finite = torch.isfinite(loss) & torch.isfinite(norm)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.on_device:
            setattr(self.optimizer, "found_inf", finite.logical_not().float())  # noqa: B010 (no declared attribute)
            self.optimizer.step()
            update_average(self.average, self.model, self.config.ema_decay, step, share=finite.float())
        elif bool(finite):
            self.optimizer.step()
            update_average(self.average, self.model, self.config.ema_decay, step)
        return Update(norm.detach(), finite)


def build_optimizer(model: Seq2Seq, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019) of what is not frozen; only matrices decay."""
    config = recipe.training
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in learning if parameter.dim() > 1]
    vectors = [parameter for parameter in learning if parameter.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, eps=1e-9, fused=True)


@torch.no_grad()
def update_average(average: Seq2Seq, model: Seq2Seq, decay: float, step: int, share: Tensor | None = None) -> None:
    """Exponential moving average of the weights, its memory growing with the run so that the start does not linger.

    ``share``, a scalar on the device, multiplies the way that the average goes: 0 leaves it where it is.
    """
    decay = min(decay, (1 + step) / (10 + step)) if decay else 0.0
    averages: list[Tensor] = list(average.parameters())
    weights: list[Tensor] = list(model.parameters())
    if share is None:
        torch._foreach_lerp_(averages, weights, 1 - decay)
    else:
        way = torch._foreach_sub(weights, averages)
        torch._foreach_mul_(way, share * (1 - decay))
        torch._foreach_add_(averages, way)
