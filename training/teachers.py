"""The checkpoints that make synthetic text or teach a student: one system, and what provenance needs to know of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from model.checkpoint import SUMS, CheckpointConfig, read_config
from model.precision import Precision
from training.hashes import hash_file
from training.system import System, UnusableSystemError, combine, open_checkpoint


class Teachers(NamedTuple):
    """Checkpoints that translate together."""

    system: System
    names: str  # such as "en-de 1 (seed 1) and en-de 1 (seed 2)"
    licence: str  # theirs, each once
    hashes: tuple[str, ...]  # of their SHA256SUMS: equal hashes are equal checkpoints
    data: tuple[str, ...]  # what they were trained on, each text once, with who was

    def in_precision(self, precision: Precision) -> Teachers:
        """The same teachers with their products with weights in ``precision``, which their names then say.

        Raises PrecisionError.
        """
        if precision == "float32":
            return self
        return self._replace(system=self.system.in_precision(precision), names=f"{self.names}, in {precision}")


def read_teachers(folders: Sequence[Path], source: str, target: str) -> list[CheckpointConfig]:
    """What checkpoints that translate ``source`` into ``target`` (BCP 47 tags) say of themselves, weights unread.

    Raises CheckpointError, and UnusableSystemError where one is of other languages.
    """
    configs = [read_config(folder) for folder in folders]
    for folder, config in zip(folders, configs, strict=True):
        if (config.source, config.target) != (source, target):
            raise UnusableSystemError(
                f"{folder} translates {config.source} into {config.target}; wanted is {source} into {target}"
            )
    return configs


def open_teachers(folders: Sequence[Path], source: str, target: str, device: str, token_budget: int) -> Teachers:
    """Opens checkpoints that translate ``source`` into ``target`` (BCP 47 tags); several decode as an ensemble.

    Raises CheckpointError, TokenizerError, EnsembleError, and UnusableSystemError where one is of other languages, or
    they differ in their tokenizers.
    """
    configs = read_teachers(folders, source, target)
    return Teachers(
        system=combine([open_checkpoint(folder, device, token_budget) for folder in folders]),
        names=" and ".join(map(_name, configs)),
        licence=", ".join(dict.fromkeys(config.training.licence for config in configs)),
        hashes=tuple(hash_file(folder / SUMS) for folder in folders),
        data=_data(configs),
    )


def _data(configs: Sequence[CheckpointConfig]) -> tuple[str, ...]:
    learned: dict[str, list[str]] = {}
    for config in configs:
        for entry in config.training.data:
            learned.setdefault(entry, []).append(_name(config))
    return tuple(f"{entry} [through {' and '.join(names)}]" for entry, names in learned.items())


def _name(config: CheckpointConfig) -> str:
    return f"{config.name} {config.version} (seed {config.training.seed})"
