"""What workers and their supervisor tell each other through a pipe, and what became of a wish that concerns them all.

Nothing here imports torch: the supervisor reads these too, and it holds no models.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # it would bring torch
    from model.precision import Precision


class ReloadReport(NamedTuple):
    """What became of the checkpoint folders when they were read anew. Models are named as in their checkpoints."""

    loaded: list[str]  # new, or changed
    removed: list[str]  # their folders are gone, or hold another model
    unchanged: list[str]
    failed: dict[str, str]  # by folder: why it could not be loaded; what was served from it before still is


def joined(reports: Sequence[ReloadReport]) -> ReloadReport:
    """One report of several processes, at least one: a model counts as loaded, removed or failed if it was in any."""
    loaded = _distinct(name for report in reports for name in report.loaded)
    removed = _distinct(name for report in reports for name in report.removed)
    unchanged = _distinct(name for report in reports for name in report.unchanged)
    reasons = Counter((folder, reason) for report in reports for folder, reason in report.failed.items())
    failed: dict[str, str] = {}
    for (folder, reason), times in reasons.items():
        told = reason if times == len(reports) else f"in {times} of {len(reports)} processes: {reason}"
        failed[folder] = f"{failed[folder]}; {told}" if folder in failed else told
    return ReloadReport(loaded, removed, [name for name in unchanged if name not in (*loaded, *removed)], failed)


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


class Listening(NamedTuple):
    """A worker to the supervisor: signals no longer end it; from now on it reads checkpoints."""


class Serving(NamedTuple):
    """A worker to the supervisor: it takes requests."""

    precisions: dict[str, Precision]  # of each model, by its name


class ReloadWanted(NamedTuple):
    """A worker to the supervisor: all others are to read the checkpoints anew."""

    ticket: int  # the worker's own number for it


class Reload(NamedTuple):
    """The supervisor to a worker: read the checkpoints anew."""

    round: int


class Reloaded(NamedTuple):
    """A worker to the supervisor: what became of :class:`Reload`."""

    round: int
    report: ReloadReport


class OthersReloaded(NamedTuple):
    """The supervisor to a worker: what became of its :class:`ReloadWanted`."""

    ticket: int
    reports: list[ReloadReport]  # of those that live


@dataclass
class _Round:
    asker: int
    ticket: int
    missing: set[int]
    reports: list[ReloadReport] = field(default_factory=list)


class Rounds:
    """Who wanted all to reload, and which workers, named by their process ids, have yet to say what became of it."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._open: dict[int, _Round] = {}

    def begin(self, asker: int, ticket: int, others: Collection[int]) -> int:
        """A new round's number; ``others`` are those asked."""
        number = next(self._numbers)
        self._open[number] = _Round(asker, ticket, set(others))
        return number

    def reported(self, pid: int, answer: Reloaded) -> None:
        """What one of them says."""
        if opened := self._open.get(answer.round):  # else its asker has died
            opened.missing.discard(pid)
            opened.reports.append(answer.report)

    def lost(self, pid: int) -> None:
        """A worker has died; the one that follows it reads the checkpoints as they are."""
        self._open = {number: opened for number, opened in self._open.items() if opened.asker != pid}
        for opened in self._open.values():
            opened.missing.discard(pid)

    def finished(self) -> list[tuple[int, OthersReloaded]]:
        """The rounds that nobody is missing in any more, with their askers; each is returned once."""
        done = [number for number, opened in self._open.items() if not opened.missing]
        over = [self._open.pop(number) for number in done]
        return [(opened.asker, OthersReloaded(opened.ticket, opened.reports)) for opened in over]
