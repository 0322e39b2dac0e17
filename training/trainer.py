"""The training loop.

``fit`` reads top-down: build or restore everything, then take steps; validate, save and stop when it is time. What the
run leaves in its folder: averaged weights, which are ``best.safetensors`` (:mod:`training.selection`) and
``last.safetensors``; ``state/state.pt``, ``recipe.yaml``, and what the reporter writes.

Nothing in a step makes the host wait for a GPU: token counts come from the plan, batches from pinned memory, and what
the device finds is read one step late (:mod:`training.readout`). So the host learns one step late, too, that a step was
skipped or that a rank was asked to stop; all ranks read the same figures and go the same way.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from model.seq2seq import Seq2Seq
from tokenizer.subword import BOS, EOS, PAD, UNK
from training.batching import BatchStream
from training.config import Recipe
from training.device import Device, resolve_device
from training.distributed import Group, join_group, started_again
from training.freezing import freeze
from training.loader import Load, Loader
from training.metrics import StepMetrics
from training.optimizer import Updater
from training.preflight import Peak, Shape, largest_pair, preflight
from training.prepare import length_limit, open_tokenizers, prepare_corpora
from training.readout import Readout, StepRecord
from training.recipe_file import dump_recipe
from training.report import Reporter, SilentReporter
from training.schedule import Schedule
from training.selection import Selection
from training.skipping import describe, too_many
from training.state import (
    LAST_WEIGHTS,
    Progress,
    TrainingState,
    generators,
    load_state,
    position_of,
    recipe_identity,
    restore_generators,
    save_state,
    seed_generators,
    state_file,
    write_atomically,
    write_weights,
)
from training.stop import Stop, stop_signals
from training.training_loss import TrainingLoss
from training.transfer import TRANSFER_FILE, open_origin, transfer
from training.validation import Validator
from training.word_distillation import (
    TEACHERS_FILE,
    Taught,
    WordTeachers,
    open_word_teachers,
    require_same_teachers,
)


class FitResult(NamedTuple):
    """What a run came to."""

    best_step: int
    best_score: float  # dev BLEU of the best weights, greedy
    best_mean_of: int  # validations whose mean the best weights are; 0: those of one
    steps: int
    skipped: int  # of the steps, for a loss or gradient that was not finite
    target_tokens: int
    seconds: float
    interrupted: bool  # by SIGINT or SIGTERM; the state is saved


def fit(recipe: Recipe, *, resume: bool, run_folder: Path) -> FitResult:
    """Train the recipe's model; with ``resume`` go on from the saved state, bit-equal to a run that never stopped.

    Under torchrun all ranks call it; ranks that torchrun has started again go on from the last state, if there is one.
    Raises CorpusError, OverlapError, DeviceError, TokenizerError, FreezingError, TransferError or CheckpointError (for
    ``init_from``), AveragingError, StateError or TrainingError; and what :func:`open_word_teachers` raises.
    """
    state = state_file(run_folder)
    resume = resume or (started_again() and state.is_file())
    with join_group(recipe) as group:
        if group.first and not resume:
            state.unlink(missing_ok=True)  # ranks that are started again must not take up an earlier run
        trainer = Trainer(recipe, run_folder, group)
        if resume:
            trainer.restore()
        else:
            trainer.begin()
        with stop_signals() as stopped:
            return trainer.run(stopped)


class Trainer:
    """A run: model, averaged model, optimizer, schedule, data and progress."""

    def __init__(self, recipe: Recipe, run_folder: Path, group: Group | None = None) -> None:
        seed_generators(recipe.seed)
        self.recipe, self.config, self.folder, self.group = recipe, recipe.training, run_folder, group or Group()
        self.device: Device = resolve_device(recipe)
        self.reporter = Reporter(run_folder) if self.group.first else SilentReporter()
        self.tokenizers = tokenizers = open_tokenizers(run_folder)
        self.teachers: WordTeachers | None = None
        self.taught: Taught | None = None
        if (teaching := self.config.word_distillation) is not None:
            self.teachers, self.taught = open_word_teachers(teaching, recipe.data, tokenizers, self.device.name)
        with self.group.first_goes_first():
            corpus, dev = prepare_corpora(recipe, tokenizers, run_folder)
        self.reporter.message(str(corpus.report))
        self.corpus = corpus
        self.batches = BatchStream(corpus, self.config.batch_tokens, recipe.seed, pad=PAD, bos=BOS, eos=EOS)
        model_config = recipe.model.config(tokenizers.source.vocabulary_size, tokenizers.target.vocabulary_size)
        assert (model_config.pad, model_config.unk, model_config.bos, model_config.eos) == (PAD, UNK, BOS, EOS)
        self.model = Seq2Seq(model_config).to(self.device.name)
        if frozen := freeze(self.model, self.config.freeze):
            self.reporter.message(f"frozen: {', '.join(frozen)}")
        self.average = Seq2Seq(model_config).to(self.device.name).requires_grad_(False)
        self.average.load_state_dict(self.model.state_dict())
        self.updater = Updater(self.model, self.average, recipe, on_device=self.device.is_gpu)
        self.loss = TrainingLoss(self.model, self.config, self.device, self.teachers)
        self.wrapped_loss = self.group.wrap(self.loss, self.device.name)
        self.readout = Readout(late=1 if self.device.is_gpu else 0)
        self.schedule = Schedule(self.config)
        self.selection = Selection(
            self.config,
            run_folder,
            Validator(dev, tokenizers.source, tokenizers.target, self.config.batch_tokens),
            length_limit(corpus),
            self.device,
            self.group,
            self.reporter,
        )
        self.progress, self.position = Progress(), self.batches.state()
        self._stopping, self._read_at, self._saved_step = False, 0.0, None  # type: tuple[bool, float, int | None]
        if self.group.first:
            write_atomically(run_folder / "recipe.yaml", dump_recipe(recipe).encode())
        else:
            seed_generators(recipe.seed + 2**20 * self.group.rank)  # other dropout on every rank

    def begin(self) -> None:
        """What only the start of a run does: forget an earlier run's files, take over the weights of ``init_from``."""
        origin = None if self.config.init_from is None else open_origin(self.config.init_from)
        if self.group.first:
            self.selection.history.start()
            (self.folder / TRANSFER_FILE).unlink(missing_ok=True)
            (self.folder / TEACHERS_FILE).unlink(missing_ok=True)
            if self.taught is not None:
                self.taught.save(self.folder)
        if self.taught is not None:
            self.reporter.message(f"learns the predictions of {self.taught.names}")
        if origin is not None:
            transferred = transfer(self.model, self.tokenizers, origin)
            self.average.load_state_dict(self.model.state_dict())
            self.reporter.message(str(transferred))
            if self.group.first:
                transferred.save(self.folder)

    def run(self, stopped: Stop) -> FitResult:
        """Take steps until the recipe, early stopping or a signal ends the run."""
        self.reporter.message(f"{self._size() / 1e6:.1f} M parameters on {self.device}")
        if self.config.preflight:
            self.reporter.message(str(self._preflight()))
        self.reporter.start(self.config.max_steps, self.progress.step)
        loader = self._loader()
        try:
            while not self._finished() and not self._stopping:
                self._step(next(loader), stopped)
                if self.progress.step % self.config.validate_every == 0 or self._finished():
                    self._validate()
                if self.progress.step % self.config.save_every == 0:
                    self.save()
            if self._finished():
                self.progress = self.selection.validate_mean(self.average, self.progress)
            self.save()
        finally:
            loader.close()
            self.reporter.close()
        progress = self.progress
        return FitResult(
            progress.best_step,
            progress.best_bleu,
            progress.best_mean_of,
            progress.step,
            progress.skipped,
            progress.target_tokens,
            progress.seconds,
            interrupted=self._stopping and not self._finished(),
        )

    def _step(self, load: Load, stopped: Stop) -> None:
        """One update from all ranks' ``accumulate`` batches, normalised by all their target positions."""
        began, step = time.perf_counter(), self.progress.step + 1
        likelihood = self._gradients(load)
        mine = torch.stack([likelihood / load.target_tokens, torch.full_like(likelihood, stopped.requested)])
        loss, stop = self.group.sum(mine).unbind()
        rate = self.schedule.rate(step)
        update = self.updater.step(loss, rate, step)
        self.position, self.progress = load.position, self.progress._replace(step=step)
        figures = torch.stack([loss, update.norm.to(loss.dtype), update.finite.to(loss.dtype), stop])
        self.readout.add(StepRecord(step, load.target_tokens, rate, began), figures)
        self._read()

    def _gradients(self, load: Load) -> Tensor:
        """Leaves the gradient of the step's mean loss; returns this rank's negative log-likelihood, a sum in nats."""
        self.model.train()
        self.updater.optimizer.zero_grad(set_to_none=True)
        # DistributedDataParallel takes the mean over ranks where the sum is wanted.
        positions = load.target_tokens / self.group.size
        total = torch.zeros((), device=self.device.name)
        for number, inputs in enumerate(load.inputs, 1):
            with self.group.exchange(self.wrapped_loss, now=number == len(load.inputs)):
                smoothed, likelihood = self.wrapped_loss(*inputs.to(self.device.name))
                (smoothed / positions).backward()
            total += likelihood
        return total

    def _read(self, *, everything: bool = False) -> None:
        """Take note of what became of the steps whose figures are due; TrainingError if too many were skipped."""
        for record, found in self.readout.due(everything=everything):
            now = time.perf_counter()
            seconds, self._read_at = now - max(record.began, self._read_at), now
            self._stopping |= found.stop
            progress = self.progress = self.progress.after(found.finite, record.target_tokens, seconds)
            speed = record.target_tokens / seconds
            self.reporter.step(
                StepMetrics(
                    record.step, found.loss, progress.target_tokens, record.rate, found.norm, speed, progress.skipped
                )
            )
            if not found.finite:
                self.reporter.message(f"step {record.step} skipped: {describe(found)}; {progress.skipped} so far")
            if progress.skipped_in_row >= self.config.nonfinite_patience:
                raise too_many(self.recipe, self.folder, record.step, found, self._saved_step)

    def _validate(self) -> None:
        """Score the averaged weights, keep them if they are the best so far."""
        self._read(everything=True)
        self.progress, figure = self.selection.validate(self.average, self.progress, self.position.epoch)
        self.schedule.validated(figure)

    def _finished(self) -> bool:
        config = self.config
        out_of_epochs = config.max_epochs is not None and self.position.epoch >= config.max_epochs
        out_of_patience = self.progress.waited >= config.early_stopping.patience
        return self.progress.step >= config.max_steps or out_of_epochs or out_of_patience

    def save(self) -> None:
        """Save the training state and the averaged weights, each atomically.

        Not while steps are being skipped: the weights may be at fault, so the state of before stays.
        """
        self._read(everything=True)
        if self.progress.skipped_in_row:
            self.reporter.message(f"state not saved, because step {self.progress.step} was skipped")
            return
        everyones_generators = self.group.gather(generators())
        self._saved_step = self.progress.step
        if not self.group.first:
            return
        write_weights(self.folder / LAST_WEIGHTS, self.average.state_dict())
        state: TrainingState = {
            "recipe": recipe_identity(self.recipe),
            "progress": tuple(self.progress),
            "position": tuple(self.position),
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.updater.optimizer.state_dict(),
            "schedule": self.schedule.state(),
            "generators": everyones_generators,
        }
        save_state(state_file(self.folder), state)
        self.selection.history.prune()

    def restore(self) -> None:
        """Take up the saved state of this recipe."""
        state = load_state(state_file(self.folder), recipe_identity(self.recipe))
        require_same_teachers(self.taught, self.folder)
        self.progress = Progress(*state["progress"])  # type: ignore[arg-type]
        if self.group.first:
            self.selection.history.resume(self.progress.step, self.config.validate_every)
        self.position, self._saved_step = position_of(state), self.progress.step
        self.batches.restore(self.position)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.updater.optimizer.load_state_dict(state["optimizer"])
        self.schedule.restore(state["schedule"])
        everyones = state["generators"]
        if len(everyones) == self.group.size:
            restore_generators(everyones[self.group.rank])
        else:
            seed_generators(self.recipe.seed + 2**20 * self.group.rank + self.progress.step)
            self.reporter.message(f"{len(everyones)} ranks became {self.group.size}: dropout goes on from new seeds")

    def _preflight(self) -> Peak:
        shape = Shape(self.config.batch_tokens, largest_pair(self.corpus))
        learning = sum(each.nbytes for each in self.model.parameters() if each.requires_grad)
        moments = 0 if self.updater.optimizer.state else 2 * learning
        return preflight(self.loss, shape, moments, self.group.on_machine)

    def _loader(self) -> Loader:
        rank, size = self.group.rank, self.group.size
        return Loader(self.batches, self.config.accumulate, rank=rank, size=size, pad=PAD, pinned=self.device.is_gpu)

    def _size(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())
