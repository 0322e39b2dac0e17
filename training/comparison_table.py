"""The table of a comparison: figures read from the run folders, mean and deviation over seeds, JSON and Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

from pydantic import Field
from rich.table import Table
from rich.text import Text

from model.config import Frozen
from training.comparison import PlannedRun
from training.fit_record import FitRecord, FitRecordError
from training.metrics import MetricsError
from training.run_results import DevScore, ScoreEntry, count_parameters, read_scores, read_validations


class RunFigures(Frozen):
    """What one finished run came to."""

    dev_bleu: float = Field(description="Of the best weights, greedy.")
    best_step: int
    steps: int
    parameters: int
    target_tokens_per_second: float
    minutes: float = Field(description="Of training steps: validations, evaluation and waiting left out.")
    device: str
    tests: tuple[ScoreEntry, ...]
    curve: tuple[DevScore, ...] = Field(description="Every validation.")


class TableRun(Frozen):
    """One row with one seed; ``figures`` is None where it did not finish, and ``error`` says why."""

    seed: int
    folder: Path
    figures: RunFigures | None
    error: str | None = None


class TableRow(Frozen):
    name: str
    settings: tuple[str, ...] = Field(description="key=value, as changed in the recipe.")
    runs: tuple[TableRun, ...]

    @property
    def finished(self) -> list[RunFigures]:
        return [run.figures for run in self.runs if run.figures is not None]


class Comparison(Frozen):
    """``compare.json``."""

    command: str
    seeds: tuple[int, ...]
    threads: int | None
    search: str
    rows: tuple[TableRow, ...]

    @property
    def failures(self) -> list[str]:
        return [f"{row.name}, seed {run.seed}: {run.error}" for row in self.rows for run in row.runs if run.error]

    @property
    def tests(self) -> list[str]:
        """Names of the test sets, in the order of the recipe."""
        finished = (figures for row in self.rows for figures in row.finished)
        return list(dict.fromkeys(scores.name for figures in finished for scores in figures.tests))

    @property
    def signatures(self) -> dict[str, str]:
        scores = [scores for row in self.rows for figures in row.finished for scores in figures.tests]
        return scores[0].signatures if scores else {}


Value: TypeAlias = Callable[[RunFigures], float | None]  # None where the run has no such figure


class Mean(NamedTuple):
    """Over seeds; the deviation is that of a sample (n - 1), None with fewer than two."""

    mean: float
    deviation: float | None


class Column(NamedTuple):
    title: str
    value: Value
    text: Callable[[Mean], str]


def gather(runs: Sequence[PlannedRun], errors: Sequence[str | None], command: str) -> Comparison:
    """Reads the figures of the runs that finished (``errors`` says None of them); a damaged folder is an error too."""
    rows: dict[str, list[TableRun]] = {}
    for run, error in zip(runs, errors, strict=True):
        figures = None
        if error is None:
            try:
                figures = read_figures(run.recipe.folder, run.evaluation)
            except (OSError, FitRecordError, MetricsError) as damage:
                error = str(damage)
        entry = TableRun(seed=run.recipe.seed, folder=run.recipe.folder, figures=figures, error=error)
        rows.setdefault(run.row.name, []).append(entry)
    settings = {run.row.name: run.row.settings for run in runs}
    options = runs[0].recipe.search
    penalty = options.length_penalty
    return Comparison(
        command=command,
        seeds=tuple(dict.fromkeys(run.recipe.seed for run in runs)),
        threads=runs[0].recipe.threads,
        search=f"beam {options.beam_size}, length penalty {penalty.kind} {penalty.alpha:g}",
        rows=tuple(TableRow(name=name, settings=settings[name], runs=tuple(made)) for name, made in rows.items()),
    )


def read_figures(run_folder: Path, evaluation: Path) -> RunFigures:
    """The figures of one finished run."""
    record = FitRecord.load(run_folder)
    return RunFigures(
        dev_bleu=record.best_score,
        best_step=record.best_step,
        steps=record.steps,
        parameters=count_parameters(run_folder),
        target_tokens_per_second=record.target_tokens / record.seconds if record.seconds else 0.0,
        minutes=record.seconds / 60,
        device=record.device,
        tests=tuple(read_scores(evaluation) or ()),
        curve=tuple(read_validations(run_folder)),
    )


def mean_of(row: TableRow, value: Value) -> Mean | None:
    """Mean and deviation over the finished seeds; None where there is none."""
    values = [found for figures in row.finished if (found := value(figures)) is not None]
    if not values:
        return None
    return Mean(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def score_columns(comparison: Comparison) -> list[Column]:
    """The best score on dev, then BLEU, lower-cased BLEU and chrF2 of every test set."""
    columns = [Column("dev BLEU", lambda figures: figures.dev_bleu, _score)]
    names = comparison.tests
    for name in names:
        prefix = f"{name} " if len(names) > 1 else "test "
        for title, field in (("BLEU", "bleu"), ("BLEU lc", "bleu_lc"), ("chrF2", "chrf2")):
            columns.append(Column(prefix + title, _test_value(name, field), _score))
    return columns


def table_columns(comparison: Comparison) -> list[Column]:
    return [
        *score_columns(comparison),
        Column("parameters", lambda figures: figures.parameters, lambda mean: f"{mean.mean / 1e6:.2f} M"),
        Column("tokens/s", lambda figures: figures.target_tokens_per_second, lambda mean: f"{mean.mean:,.0f}"),
        Column("minutes", lambda figures: figures.minutes, lambda mean: f"{mean.mean:.1f}"),
    ]


def rich_table(comparison: Comparison) -> Table:
    """The table for a terminal."""
    columns = table_columns(comparison)
    table = Table(title=comparison.search, title_justify="left")
    table.add_column("row", overflow="fold")
    table.add_column("seeds", justify="right")
    for column in columns:
        table.add_column(column.title, justify="right")
    for row in comparison.rows:
        table.add_row(Text(row.name), _seeds(row), *_cells(row, columns))
    table.caption = Text("\n".join([*comparison.failures, *_signature_lines(comparison)]))
    table.caption_justify = "left"
    return table


def markdown(comparison: Comparison) -> str:
    """The table for a README, with the command that made it and the signatures of its scores."""
    columns = table_columns(comparison)
    titles = ["row", "seeds", *(column.title for column in columns)]
    lines = [_line(titles), "|" + "|".join(["---", *["--:"] * (len(columns) + 1)]) + "|"]
    lines += [_line([row.name, _seeds(row), *_cells(row, columns)]) for row in comparison.rows]
    return "\n".join([*lines, "", *_notes(comparison)]) + "\n"


def _notes(comparison: Comparison) -> list[str]:
    seeds, threads = comparison.seeds, comparison.threads
    devices = sorted({figures.device for row in comparison.rows for figures in row.finished})
    names = comparison.tests
    over = f"Mean ± standard deviation (n - 1) over seeds {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else ""
    parts = [
        over or f"One seed ({seeds[0]})",
        "dev BLEU is greedy, of the best validation",
        *([f"test is {names[0]}"] if len(names) == 1 else []),
        f"tests are searched with {comparison.search} unless the row says otherwise" if names else "no test set",
        "minutes are those of training steps",
        *([f"on {' and '.join(devices)}"] if devices else []),
        *([f"{threads} thread{'s' * (threads != 1)} a run"] if threads else []),
    ]
    failures = [f"- Not finished: {failure}" for failure in comparison.failures]
    return [
        "; ".join(parts) + ".",
        *(["", *failures] if failures else []),
        "",
        "```",
        comparison.command,
        *_signature_lines(comparison),
        "```",
    ]


def _signature_lines(comparison: Comparison) -> list[str]:
    wanted = {name: text for name, text in comparison.signatures.items() if name in ("bleu", "bleu_lc", "chrf2")}
    return [f"{name}: {signature}" for name, signature in wanted.items()]


def _cells(row: TableRow, columns: Sequence[Column]) -> list[str]:
    means = [mean_of(row, column.value) for column in columns]
    return ["" if mean is None else column.text(mean) for column, mean in zip(columns, means, strict=True)]


def _seeds(row: TableRow) -> str:
    done, planned = len(row.finished), len(row.runs)
    return str(done) if done == planned else f"{done} of {planned}"


def _score(mean: Mean) -> str:
    return f"{mean.mean:.2f}" + ("" if mean.deviation is None else f" ± {mean.deviation:.2f}")


def _test_value(name: str, field: str) -> Value:
    def value(figures: RunFigures) -> float | None:
        scores = next((scores for scores in figures.tests if scores.name == name), None)
        return None if scores is None else float(getattr(scores, field))

    return value


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
