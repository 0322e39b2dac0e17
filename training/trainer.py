"""The training loop.

``fit`` reads top-down: build or restore everything, then take steps; validate, save and stop when it is time. What the
run leaves in its folder: ``best.safetensors`` and ``last.safetensors`` (averaged weights), ``state/state.pt``,
``recipe.yaml``, and what the reporter writes.
"""

from __future__ import annotations

import hashlib
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import torch
from safetensors.torch import save as save_tensors

from model.seq2seq import Seq2Seq
from tokenizer.subword import BOS, EOS, PAD, UNK
from training.batching import Batch, BatchStream
from training.config import Recipe
from training.device import Device, resolve_device
from training.metrics import StepMetrics, ValidationMetrics
from training.objective import smoothed_cross_entropy
from training.prepare import length_limit, open_tokenizers, prepare_corpora
from training.recipe_file import dump_recipe
from training.report import Reporter
from training.schedule import Schedule
from training.state import (
    Progress,
    TrainingState,
    generators,
    load_state,
    position_of,
    restore_generators,
    save_state,
    seed_generators,
    state_file,
    write_atomically,
)
from training.validation import Validator


class TrainingError(Exception):
    """The run cannot go on."""


class FitResult(NamedTuple):
    """What a run came to."""

    best_step: int
    best_score: float  # dev BLEU of the best weights, greedy
    steps: int
    target_tokens: int
    seconds: float
    interrupted: bool  # by SIGINT or SIGTERM; the state is saved


def fit(recipe: Recipe, *, resume: bool, run_folder: Path) -> FitResult:
    """Train the recipe's model; with ``resume`` go on from the saved state, bit-equal to a run that never stopped.

    Raises CorpusError, OverlapError, DeviceError, TokenizerError, StateError or TrainingError.
    """
    trainer = Trainer(recipe, run_folder)
    if resume:
        trainer.restore()
    with _stop_signals() as stopped:
        return trainer.run(stopped)


class Trainer:
    """A run: model, averaged model, optimizer, schedule, data and progress."""

    def __init__(self, recipe: Recipe, run_folder: Path) -> None:
        seed_generators(recipe.seed)
        self.recipe, self.config, self.folder = recipe, recipe.training, run_folder
        self.device: Device = resolve_device(recipe)
        self.reporter = Reporter(run_folder)
        tokenizers = open_tokenizers(run_folder)
        corpus, dev = prepare_corpora(recipe, tokenizers, run_folder)
        self.reporter.message(str(corpus.report))
        self.length_limit = length_limit(corpus)
        self.batches = BatchStream(corpus, self.config.batch_tokens, recipe.seed, pad=PAD, bos=BOS, eos=EOS)
        self.validator = Validator(dev, tokenizers.source, tokenizers.target, self.config.batch_tokens)
        model_config = recipe.model.config(tokenizers.source.vocabulary_size, tokenizers.target.vocabulary_size)
        assert (model_config.pad, model_config.unk, model_config.bos, model_config.eos) == (PAD, UNK, BOS, EOS)
        self.model = Seq2Seq(model_config).to(self.device.name)
        self.average = Seq2Seq(model_config).to(self.device.name).requires_grad_(False)
        self.average.load_state_dict(self.model.state_dict())
        self.optimizer = build_optimizer(self.model, recipe)
        self.schedule = Schedule(self.config)
        self.progress = Progress()
        write_atomically(run_folder / "recipe.yaml", dump_recipe(recipe).encode())

    def run(self, stopped: Stop) -> FitResult:
        """Take steps until the recipe, early stopping or a signal ends the run."""
        self.reporter.message(f"{self._size() / 1e6:.1f} M parameters on {self.device}")
        self.reporter.start(self.config.max_steps, self.progress.step)
        try:
            while not self._finished() and not stopped.requested:
                self._step()
                if self.progress.step % self.config.validate_every == 0 or self._finished():
                    self._validate()
                if self.progress.step % self.config.save_every == 0:
                    self.save()
            self.save()
        finally:
            self.reporter.close()
        progress = self.progress
        return FitResult(
            progress.best_step,
            progress.best_bleu,
            progress.step,
            progress.target_tokens,
            progress.seconds,
            interrupted=stopped.requested and not self._finished(),
        )

    def _step(self) -> None:
        """One update from ``accumulate`` batches, normalised by all their target positions."""
        began, step = time.perf_counter(), self.progress.step + 1
        batches = [next(self.batches) for _ in range(self.config.accumulate)]
        tokens = sum(int((batch.target_output != PAD).sum()) for batch in batches)
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        likelihood = sum(self._backward(batch, tokens) for batch in batches) / tokens
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm))
        if not (math.isfinite(likelihood) and math.isfinite(norm)):
            raise TrainingError(f"step {step}: loss {likelihood}, gradient norm {norm}; lower the learning rate")
        rate = self.schedule.rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        update_average(self.average, self.model, self.config.ema_decay, step)
        seconds = time.perf_counter() - began
        progress = self.progress
        self.progress = progress._replace(
            step=step, target_tokens=progress.target_tokens + tokens, seconds=progress.seconds + seconds
        )
        self.reporter.step(StepMetrics(step, likelihood, self.progress.target_tokens, rate, norm, tokens / seconds))

    def _backward(self, batch: Batch, tokens: int) -> float:
        """Add one batch's share to the gradient; returns its negative log-likelihood, a sum in nats."""
        source, lengths, target_input, target_output = (part.to(self.device.name) for part in batch)
        with self.device.autocast():
            features = self.model(source, lengths, target_input)
        loss = smoothed_cross_entropy(
            features,
            self.model.output_weight(),
            self.model.output_bias,
            target_output,
            smoothing=self.config.label_smoothing,
            pad=PAD,
        )
        (loss.smoothed / tokens).backward()  # type: ignore[no-untyped-call]
        return float(loss.likelihood)

    def _validate(self) -> None:
        """Score the averaged weights, keep them if they are the best so far."""
        found = self.validator.validate(self.average, self.length_limit, self.device, self.config.samples)
        progress = self.progress
        self.reporter.validation(
            ValidationMetrics(
                progress.step, self.batches.epoch, found.loss, math.exp(found.loss), found.bleu, found.samples
            )
        )
        figure = found.bleu if self.config.early_stopping.metric == "bleu" else -found.loss
        self.schedule.validated(figure)
        if progress.best_figure is None or figure > progress.best_figure:
            self.progress = progress._replace(
                best_step=progress.step, best_figure=figure, best_bleu=found.bleu, waited=0
            )
            self._write_weights("best.safetensors")
        else:
            self.progress = progress._replace(waited=progress.waited + 1)

    def _finished(self) -> bool:
        config = self.config
        out_of_epochs = config.max_epochs is not None and self.batches.epoch >= config.max_epochs
        out_of_patience = self.progress.waited >= config.early_stopping.patience
        return self.progress.step >= config.max_steps or out_of_epochs or out_of_patience

    def save(self) -> None:
        """Save the training state and the averaged weights, each atomically."""
        self._write_weights("last.safetensors")
        state: TrainingState = {
            "recipe": _identity(self.recipe),
            "progress": tuple(self.progress),
            "position": tuple(self.batches.state()),
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state(),
            "generators": generators(),
        }
        save_state(state_file(self.folder), state)

    def restore(self) -> None:
        """Take up the saved state of this recipe."""
        state = load_state(state_file(self.folder), _identity(self.recipe))
        self.progress = Progress(*state["progress"])  # type: ignore[arg-type]
        self.batches.restore(position_of(state))
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.restore(state["schedule"])
        restore_generators(state["generators"])

    def _write_weights(self, name: str) -> None:
        weights = {key: value.cpu().contiguous() for key, value in self.average.state_dict().items()}
        write_atomically(self.folder / name, save_tensors(weights))

    def _size(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())


def build_optimizer(model: Seq2Seq, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019); only matrices decay."""
    config = recipe.training
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, eps=1e-9, fused=True)


@torch.no_grad()
def update_average(average: Seq2Seq, model: Seq2Seq, decay: float, step: int) -> None:
    """Exponential moving average of the weights, its memory growing with the run so that the start does not linger."""
    decay = min(decay, (1 + step) / (10 + step)) if decay else 0.0
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)


def _identity(recipe: Recipe) -> str:
    """Hash of the sections that a resumed run must share with its start."""
    kept = recipe.model_dump_json(include={"seed", "data", "tokenizer", "model", "training"})
    return hashlib.sha256(kept.encode()).hexdigest()


class Stop:
    """Whether a signal has asked the run to end after its step."""

    requested = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.requested = True


@contextmanager
def _stop_signals() -> Iterator[Stop]:
    """SIGINT and SIGTERM end the run at the next step, with its state saved."""
    stop = Stop()
    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
