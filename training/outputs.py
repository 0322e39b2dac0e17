"""What systems said on test sets, to be compared: from text files, evaluation and run folders, or checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from model.checkpoint import SUMS
from training.reading import read_all, read_lines
from training.recipe_file import load_recipe
from training.run_folders import RECIPE_FILE
from training.run_results import ScoreEntry, read_scores
from training.scores import SCORES_FILE
from training.significance import SignificanceError
from training.system import open_checkpoint


class Output(NamedTuple):
    """A system's translations of one test set."""

    test: str  # its name; "" where only a file is known
    hypotheses: list[str]
    references: list[str] | None  # None where the folder does not say


def read_outputs(path: Path, source: Path | None = None, device: str = "cpu") -> list[Output]:
    """The translations that ``path`` holds, of each test set; a checkpoint is asked to translate ``source``.

    Raises SignificanceError where there are none; CorpusError, CheckpointError, RecipeError for unusable files.
    """
    if path.is_file() or not path.exists():
        return [Output("", list(read_lines(path)), None)]
    if (path / SUMS).is_file():
        if source is None:
            raise SignificanceError(f"{path} is a checkpoint: give the text that it is to translate with --source")
        return [Output("", open_checkpoint(path, device).translate(list(read_lines(source))), None)]
    folder = _evaluation_folder(path)
    entries = read_scores(folder)
    if not entries:
        raise SignificanceError(f"{folder / SCORES_FILE} holds no scores; run `ferry-train evaluate` again")
    references = _references(folder)
    return [Output(entry.name, _hypotheses(folder, entry), references.get(entry.name)) for entry in entries]


def matched(first: list[Output], second: list[Output]) -> list[tuple[Output, Output]]:
    """Pairs of outputs on the same test set: by name, or the only one of each. Raises SignificanceError without any."""
    if len(first) == len(second) == 1 and "" in (first[0].test, second[0].test):
        return [(first[0], second[0])]
    by_name = {output.test: output for output in second}
    pairs = [(output, by_name[output.test]) for output in first if output.test in by_name]
    if not pairs:
        names = " and ".join(
            ", ".join(repr(output.test or "a file") for output in outputs) for outputs in (first, second)
        )
        raise SignificanceError(f"A and B have no test set in common: {names}")
    return pairs


def _evaluation_folder(path: Path) -> Path:
    """The folder with ``scores.json``: ``path`` itself, or the one evaluation of a run folder."""
    if (path / SCORES_FILE).is_file():
        return path
    found = sorted(path.glob(f"evaluation*/{SCORES_FILE}"))
    if len(found) == 1:
        return found[0].parent
    if not found:
        raise SignificanceError(f"{path} holds no evaluation and no checkpoint; run `ferry-train evaluate` first")
    raise SignificanceError(
        f"{path} holds several evaluations; name one: {', '.join(str(one.parent) for one in found)}"
    )


def _hypotheses(folder: Path, entry: ScoreEntry) -> list[str]:
    if entry.hypotheses is None:
        raise SignificanceError(
            f"{folder / SCORES_FILE} does not say where the hypotheses of {entry.name!r} are; name their files instead"
        )
    return list(read_lines(folder / entry.hypotheses))


def _references(folder: Path) -> dict[str, list[str]]:
    """References by test set, from the recipe beside the evaluation or in the run folder around it."""
    recipe = next((path for path in (folder / RECIPE_FILE, folder.parent / RECIPE_FILE) if path.is_file()), None)
    if recipe is None:
        return {}
    corpora = load_recipe(recipe).data.test
    return {
        f"{corpus.label.removesuffix(' test')} test": [pair.target for pair in read_all([corpus])] for corpus in corpora
    }
