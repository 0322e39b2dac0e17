"""Reading the checkpoint folders anew while requests are under way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from app.catalogue import Catalogue
from app.languages import DuplicatePairError
from app.loading import Loader, fingerprint
from app.messages import ReloadReport
from app.served import ServedModel
from app.settings import SettingsError

logger = structlog.get_logger("app.models")

# For an instant between two renames a folder that is being replaced is not there.
REPLACING_SECONDS = 0.3


class Reloader:
    """Compares the folders with what is served, one comparison after the other, and exchanges what differs."""

    def __init__(self, folders: Callable[[], Sequence[Path]], loader: Loader, *, pivot: bool) -> None:
        """``folders`` lists them as they are at the moment, and may raise SettingsError."""
        self._folders, self._loader, self._pivot = folders, loader, pivot
        self._turn = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()

    async def reload(self, current: Callable[[], Catalogue], exchange: Callable[[Catalogue], None]) -> ReloadReport:
        """Load what is new or changed, then ``exchange`` the ``current`` catalogue as a whole.

        Models that are served no more leave the engine when the last request that uses them is done.
        """
        async with self._turn:
            before = current().models
            try:
                folders = await self._list(before)
            except SettingsError as error:
                return self._log(ReloadReport([], [], _names(before), {"all": str(error)}))
            models, failed = await self._gather(folders, before)
            report = self._compare(before, models, failed)
            try:
                exchange(Catalogue(models, pivot=self._pivot))
            except DuplicatePairError as error:
                self._retire(set(models) - set(before))
                return self._log(ReloadReport([], [], _names(before), {**failed, "all": str(error)}))
            self._retire(set(before) - set(models))
            return self._log(report)

    async def _list(self, before: Sequence[ServedModel]) -> Sequence[Path]:
        folders = self._folders()
        if any(model.facts.folder not in folders for model in before):
            await asyncio.sleep(REPLACING_SECONDS)
            folders = self._folders()
        return folders

    async def _gather(
        self, folders: Sequence[Path], before: Sequence[ServedModel]
    ) -> tuple[list[ServedModel], dict[str, str]]:
        """The models to serve from now on, and the folders that failed."""
        models, failed = [], {}
        for folder in folders:
            # A folder of checkpoints that holds none any more is listed itself, and fails; what was in it serves on.
            old = [model for model in before if folder in (model.facts.folder, model.facts.folder.parent)]
            try:
                models.append(await asyncio.to_thread(self._current, folder, old))
            except Exception as error:  # whatever a checkpoint does, the others and the old one serve on
                logger.error("a checkpoint could not be loaded", folder=str(folder), exc_info=error)
                failed[str(folder)] = str(error)
                models.extend(old)
        return models, failed

    def _current(self, folder: Path, old: Sequence[ServedModel]) -> ServedModel:
        found = fingerprint(folder)
        unchanged = (model for model in old if model.facts.folder == folder and model.facts.fingerprint == found)
        return next(unchanged, None) or self._loader.load(folder)

    def _compare(
        self, before: Sequence[ServedModel], after: Sequence[ServedModel], failed: dict[str, str]
    ) -> ReloadReport:
        loaded = [model for model in after if model not in before]
        removed = [name for name in _names(before) if name not in _names(after)]
        return ReloadReport(_names(loaded), removed, _names([model for model in after if model in before]), failed)

    def _retire(self, models: set[ServedModel]) -> None:
        for model in models:
            task = asyncio.create_task(model.retire())
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    def _log(self, report: ReloadReport) -> ReloadReport:
        (logger.error if report.failed else logger.info)("checkpoints read anew", **report._asdict())
        return report


def _names(models: Sequence[ServedModel]) -> list[str]:
    return [model.pair.model for model in models]
