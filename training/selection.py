"""Which weights of a run are its best: those of one validation, or the mean of those at the last ones."""

from __future__ import annotations

import copy
import math
from pathlib import Path

from model.config import LengthLimit
from model.seq2seq import Seq2Seq
from training.averaging import WeightHistory
from training.config import TrainingConfig
from training.device import Device
from training.distributed import Group
from training.metrics import ValidationMetrics
from training.report import Reporter, SilentReporter
from training.state import BEST_WEIGHTS, Progress, write_weights
from training.validation import Validation, Validator


class Selection:
    """Scores weights on dev and keeps the best of them in the run folder. Every rank calls it; the first one works."""

    def __init__(
        self,
        config: TrainingConfig,
        run_folder: Path,
        validator: Validator,
        length_limit: LengthLimit,
        device: Device,
        group: Group,
        reporter: Reporter | SilentReporter,
    ) -> None:
        self.config, self.folder, self.device, self.group, self.reporter = config, run_folder, device, group, reporter
        self.validator, self.length_limit = validator, length_limit
        self.history = WeightHistory(run_folder, config.average_last)

    def validate(self, model: Seq2Seq, progress: Progress, epoch: int) -> tuple[Progress, float]:
        """Score ``model`` and keep its weights if they are the best so far.

        Returns the progress after it, and the figure that is compared: higher is better.
        """
        found = self._score(model)
        perplexity = math.exp(found.loss)
        self.reporter.validation(
            ValidationMetrics(progress.step, epoch, found.loss, perplexity, found.bleu, found.samples)
        )
        figure = self._figure(found)
        if progress.best_figure is None or figure > progress.best_figure:
            progress = progress.with_best(figure, found.bleu)._replace(waited=0)
            self._keep(model)
        else:
            progress = progress._replace(waited=progress.waited + 1)
        if self.group.first:
            self.history.add(progress.step, model.state_dict())
        return progress, figure

    def validate_mean(self, model: Seq2Seq, progress: Progress) -> Progress:
        """Let the mean of the weights at the last validations be the best, if it is better on dev.

        ``model`` is one of the same shape; it stays as it is. Returns the progress after it.
        """
        steps = self.group.from_first(self.history.averaged() if self.group.first else None)
        if len(steps) < 2:
            return progress
        mean = copy.deepcopy(model)
        if self.group.first:
            mean.load_state_dict(self.history.mean())
        found = self._score(mean)
        figure, metric = self._figure(found), self.config.early_stopping.metric
        better = progress.best_figure is None or figure > progress.best_figure
        if better:
            progress = progress.with_best(figure, found.bleu, mean_of=len(steps))
            self._keep(mean)
        self.reporter.message(
            f"mean of the weights at steps {', '.join(map(str, steps))}  "
            f"dev: loss {found.loss:.3f}  BLEU {found.bleu:.2f}; by {metric} {'better' if better else 'no better'} "
            f"than step {progress.best_step} (BLEU {progress.best_bleu:.2f}), so {'now' if better else 'not'} the best"
        )
        return progress

    def _score(self, model: Seq2Seq) -> Validation:
        """Figures of ``model``, from the first rank."""
        if not self.group.first:
            return self.group.from_first(None)
        found = self.validator.validate(model, self.length_limit, self.device, self.config.samples)
        return self.group.from_first(found)

    def _figure(self, found: Validation) -> float:
        """What early stopping compares; higher is better."""
        return found.bleu if self.config.early_stopping.metric == "bleu" else -found.loss

    def _keep(self, model: Seq2Seq) -> None:
        if self.group.first:
            write_weights(self.folder / BEST_WEIGHTS, model.state_dict())
