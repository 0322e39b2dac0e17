"""Learning rate as a function of the step: linear warm-up, then cosine, inverse square root or plateau."""

from __future__ import annotations

import math

from training.config import TrainingConfig


class Schedule:
    """The rate at each step. Only ``plateau`` has state: how far it has come down, and since when it waits."""

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.scale = 1.0
        self.best: float | None = None
        self.waited = 0

    def rate(self, step: int) -> float:
        """Learning rate of step ``step``, counted from 1."""
        config = self.config
        if step <= config.warmup_steps:
            return config.learning_rate * step / config.warmup_steps
        if config.schedule == "cosine":
            done = (step - config.warmup_steps) / max(1, config.max_steps - config.warmup_steps)
            share = (1 + math.cos(math.pi * min(1.0, done))) / 2
            return config.minimum_learning_rate + share * (config.learning_rate - config.minimum_learning_rate)
        if config.schedule == "inverse_sqrt":  # Vaswani et al. 2017, equation 3, scaled to the given highest rate
            return config.learning_rate * math.sqrt(max(1, config.warmup_steps) / step)
        return max(config.minimum_learning_rate, config.learning_rate * self.scale)

    def validated(self, figure: float) -> None:
        """Take note of a validation ``figure``, higher being better: plateau comes down when it stops rising."""
        if self.best is None or figure > self.best:
            self.best, self.waited = figure, 0
            return
        self.waited += 1
        if self.config.schedule == "plateau" and self.waited >= self.config.plateau_patience:
            self.scale, self.waited = self.scale * self.config.plateau_factor, 0

    def state(self) -> dict[str, float | int | None]:
        """What a resumed run needs."""
        return {"scale": self.scale, "best": self.best, "waited": self.waited}

    def restore(self, state: dict[str, float | int | None]) -> None:
        """Take up a :meth:`state`."""
        self.scale, self.best, self.waited = float(state["scale"] or 0.0), state["best"], int(state["waited"] or 0)
