"""From a batch to the loss in one forward call of one module.

DistributedDataParallel sees only what happens inside the forward call of the module that it wraps, so everything that
touches a weight is in it: the model and the output embeddings, which may be the input embeddings as well.
"""

from __future__ import annotations

from torch import Tensor, nn

from model.seq2seq import Seq2Seq
from training.config import TrainingConfig
from training.device import Device
from training.objective import smoothed_cross_entropy
from training.r_drop import r_drop_cross_entropy, twice
from training.word_distillation import WordTeachers


class TrainingLoss(nn.Module):
    """The model and what it is trained for."""

    def __init__(
        self, model: Seq2Seq, config: TrainingConfig, device: Device, teachers: WordTeachers | None = None
    ) -> None:
        super().__init__()
        self.model, self.config, self.device, self.teachers = model, config, device, teachers

    def forward(
        self, source: Tensor, source_lengths: Tensor, target_input: Tensor, target_output: Tensor, real: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Sums over the real target positions, two scalars: what is minimised, and the negative log-likelihood.

        As in :class:`training.batching.Batch`, with ``real`` (N,) int64, the places in the flattened ``target_output``
        that are no padding.
        """
        alpha, smoothing, pad = self.config.r_drop, self.config.label_smoothing, self.model.config.pad
        teaching = None
        if self.teachers is not None:
            with self.device.autocast():
                teaching = self.teachers.teach(source, source_lengths, target_input, real)
        if alpha:
            source, source_lengths, target_input = twice(source), twice(source_lengths), twice(target_input)
        with self.device.autocast():
            features = self.model(source, source_lengths, target_input)
        head = (features, self.model.output_weight(), self.model.output_bias, target_output)
        if alpha:
            loss = r_drop_cross_entropy(*head, alpha=alpha, smoothing=smoothing, pad=pad, real=real, teaching=teaching)
        else:
            loss = smoothed_cross_entropy(*head, smoothing=smoothing, pad=pad, real=real, teaching=teaching)
        return loss.smoothed, loss.likelihood
