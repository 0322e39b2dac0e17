"""What a person sees of a run: progress bar, samples, ``metrics.jsonl``, TensorBoard and ``curves.png``."""

from __future__ import annotations

import math
import shutil
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text
from torch.utils.tensorboard import SummaryWriter

from training.curves import draw_curves
from training.metrics import MetricsLog, StepMetrics, ValidationMetrics

METRICS_FILE, CURVES_FILE, TENSORBOARD_FOLDER = "metrics.jsonl", "curves.png", "tensorboard"
_QUIET_SECONDS = 30.0  # between lines of progress where no bar can be drawn


class Reporter:
    """Told by the trainer what happens; tells the person and the files.

    ``start`` comes first, ``close`` last, also after an error; between them ``step`` as often as the trainer likes.
    """

    def __init__(self, run_folder: Path, console: Console | None = None) -> None:
        self._folder = run_folder
        self._console = console or Console(stderr=True)
        self._log = MetricsLog(run_folder / METRICS_FILE)
        self._bar = _progress_bar(self._console)
        self._task = self._bar.add_task("fit", total=None, figures="")
        self._board: SummaryWriter | None = None
        self._last_line = time.monotonic()
        self._total_steps = 0

    def start(self, total_steps: int, first_step: int) -> None:
        """Begins a run (``first_step`` 0), or resumes one whose state was saved after ``first_step`` steps."""
        self._total_steps = total_steps
        self._log.start(first_step)
        board_folder = self._folder / TENSORBOARD_FOLDER
        if first_step == 0:
            shutil.rmtree(board_folder, ignore_errors=True)
        self._board = SummaryWriter(str(board_folder), purge_step=first_step + 1)
        self._bar.reset(self._task, total=total_steps, completed=first_step)
        if self._console.is_terminal:
            self._bar.start()

    def step(self, metrics: StepMetrics) -> None:
        """Figures of the steps since the last call."""
        self._log.step(metrics)
        self._scalars(
            metrics.step,
            {
                "train/loss": metrics.loss,
                "train/learning_rate": metrics.learning_rate,
                "train/gradient_norm": metrics.gradient_norm,
                "train/tokens_per_second": metrics.tokens_per_second,
            },
        )
        figures = (
            f"loss {metrics.loss:.3f}  perplexity {_exp(metrics.loss):.1f}  {metrics.tokens_per_second:,.0f} tokens/s"
        )
        self._bar.update(self._task, completed=metrics.step, figures=figures)
        if not self._console.is_terminal and time.monotonic() - self._last_line > _QUIET_SECONDS:
            self._last_line = time.monotonic()
            self.message(f"step {metrics.step}/{self._total_steps}  {figures}  {self._remaining()}")

    def validation(self, metrics: ValidationMetrics) -> None:
        """Figures and sample translations of a validation; redraws the curves."""
        self._log.validation(metrics)
        self._scalars(
            metrics.step,
            {"dev/loss": metrics.loss, "dev/perplexity": metrics.perplexity, "dev/bleu": metrics.bleu},
        )
        self.message(
            f"step {metrics.step}  epoch {metrics.epoch}  dev: loss {metrics.loss:.3f}  "
            f"perplexity {metrics.perplexity:.2f}  BLEU {metrics.bleu:.2f}"
        )
        for source, reference, hypothesis in metrics.samples:
            self._sample(source, reference, hypothesis)
        if self._board is not None and metrics.samples:
            self._board.add_text("dev/samples", _markdown(metrics.samples), metrics.step)
        self._draw()

    def message(self, text: str) -> None:
        """A line for the person, above the bar."""
        self._console.print(Text(text), highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Ends the bar and completes the files. A second call does nothing."""
        self._bar.stop()
        self._log.close()
        if self._board is not None:
            self._board.close()
            self._board = None
            self._draw()

    def _scalars(self, step: int, values: dict[str, float]) -> None:
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def _sample(self, source: str, reference: str, hypothesis: str) -> None:
        for label, text, style in (
            ("source", source, "dim"),
            ("reference", reference, "dim"),
            ("ours", hypothesis, ""),
        ):
            line = Text.assemble((f"  {label:>9}  ", "dim"), (text, style))
            self._console.print(line, highlight=False, soft_wrap=True)

    def _draw(self) -> None:
        draw_curves(self._log.steps, self._log.validations, self._folder / CURVES_FILE)

    def _remaining(self) -> str:
        seconds = self._bar.tasks[0].time_remaining
        return "" if seconds is None else f"{seconds / 60:.0f} min left"


class SilentReporter:
    """Told the same, tells nobody: for the ranks that leave it to the first."""

    def start(self, total_steps: int, first_step: int) -> None:
        """Begins a run."""

    def step(self, metrics: StepMetrics) -> None:
        """Figures of the steps since the last call."""

    def validation(self, metrics: ValidationMetrics) -> None:
        """Figures of a validation."""

    def message(self, text: str) -> None:
        """A line for the person."""

    def close(self) -> None:
        """Ends the run."""


def _progress_bar(console: Console) -> Progress:
    return Progress(
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        speed_estimate_period=300,
    )


def _markdown(samples: list[tuple[str, str, str]]) -> str:
    rows = ["| source | reference | hypothesis |", "|---|---|---|"]
    for sample in samples:
        rows.append("| " + " | ".join(text.replace("|", "\\|") for text in sample) + " |")
    return "\n".join(rows)


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf
