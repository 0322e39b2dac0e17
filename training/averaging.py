"""Averaging of checkpoints: the mean of the weights that a run had at its last validations.

One average of a run's last checkpoints comes near an ensemble of them at the price of one model (Junczys-Dowmunt et al.
2016; Vaswani et al. 2017, section 6.1). The weights wait in the run folder, a file a validation.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from training.state import write_weights

AVERAGING_FOLDER = "averaging"


class AveragingError(Exception):
    """The weights of earlier validations are not there or damaged."""


class WeightHistory:
    """The weights at the last ``keep`` validations of a run, in ``averaging/`` of its folder; with 0 nothing is kept.

    A file goes only after a training state that no longer needs it has been saved (``prune``), so that a run killed at
    any moment finds the weights of the validations before its state.
    """

    def __init__(self, run_folder: Path, keep: int) -> None:
        self.folder, self.keep = run_folder / AVERAGING_FOLDER, keep

    def start(self) -> None:
        """Forget an earlier run."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def resume(self, step: int, validate_every: int) -> None:
        """Forget what a run did beyond the state of ``step`` that it is resumed from.

        Raises AveragingError if weights of validations up to there are missing, which come every ``validate_every``.
        """
        for later in [found for found in self.steps() if found > step]:
            self._file(later).unlink()
        wanted = min(self.keep, step // validate_every)
        if len(self.steps()) < wanted:
            raise AveragingError(
                f"{self.folder} holds the weights of {len(self.steps())} validations, but the state of step {step} "
                f"needs {wanted}; bring the folder back, or start without --resume"
            )

    def add(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Keep the weights of a validation, atomically. Raises OSError."""
        if self.keep:
            write_weights(self._file(step), weights)

    def prune(self) -> None:
        """Drop all but the last ``keep``: for the moment when a state is saved."""
        for old in self.steps()[: -self.keep or None]:
            self._file(old).unlink()

    def steps(self) -> list[int]:
        """The steps whose weights are here, first to last."""
        return sorted(int(path.stem) for path in self.folder.glob("[0-9]*.safetensors"))

    def averaged(self) -> list[int]:
        """The steps whose mean :meth:`mean` is."""
        return self.steps()[-self.keep :] if self.keep else []

    def mean(self) -> dict[str, Tensor]:
        """The mean over the last ``keep`` validations, in the weights' own type on the CPU; never two files at a time.

        Raises AveragingError for a damaged file.
        """
        steps = self.averaged()
        total = {name: tensor.double() for name, tensor in self._load(steps[0]).items()}
        for step in steps[1:]:
            for name, tensor in self._load(step).items():
                total[name] += tensor
        return {name: (total[name] / len(steps)).to(tensor.dtype) for name, tensor in self._load(steps[-1]).items()}

    def _file(self, step: int) -> Path:
        return self.folder / f"{step}.safetensors"

    def _load(self, step: int) -> dict[str, Tensor]:
        path = self._file(step)
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise AveragingError(f"{path}: cannot be read ({error}); start without --resume") from error
