"""``significance``: whether one system is better than another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from training.commands.shared import AsJson, DeviceOption, mendable_errors
from training.device import pick_device
from training.outputs import Output, matched, read_outputs
from training.reading import read_lines
from training.significance import SEED, MetricName, SignificanceError, TestName, Verdict, compare_systems


def significance_command(
    a: Annotated[Path, typer.Argument(metavar="A", help="Hypotheses: a file, run, evaluation or checkpoint folder.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="As A, of the system that is compared with it.")],
    reference: Annotated[Path | None, typer.Option(help="Default: as the recipe of A's or B's run says.")] = None,
    source: Annotated[Path | None, typer.Option(help="Text that a checkpoint is to translate.")] = None,
    metric: Annotated[MetricName, typer.Option(help="bleu_lc is lower-cased BLEU.")] = "bleu",
    test: Annotated[TestName, typer.Option(help="Bootstrap resampling, or approximate randomization.")] = "paired-bs",
    samples: Annotated[int, typer.Option(min=0, help="0: 1,000 resamples (paired-bs), 10,000 trials (paired-ar).")] = 0,
    seed: Annotated[int, typer.Option(min=1, help="Of the resampling.")] = SEED,
    as_json: AsJson = False,
    device: DeviceOption = "auto",
) -> None:
    """Test whether system B is better than system A on the same test set, or A than B.

    Paired bootstrap resampling (Koehn 2004) through sacreBLEU. Folders are compared on every test set that both have
    been evaluated on.
    """
    with mendable_errors():
        pairs = matched(*(read_outputs(path, source, pick_device(device)) for path in (a, b)))
        if reference is not None and len(pairs) > 1:
            raise SignificanceError(
                "--reference is for one test set, and A and B share several; name their files instead"
            )
        found = []
        for first, second in pairs:
            references = _references(first, second, reference)
            verdict = compare_systems(
                first.hypotheses, second.hypotheses, references, metric, test, samples=samples, seed=seed
            )
            found.append((first.test or second.test, verdict))
        if as_json:
            typer.echo(json.dumps([_entry(name, verdict) for name, verdict in found], indent=2, ensure_ascii=False))
            return
        for name, verdict in found:
            _show(name, verdict, a, b)


def _references(first: Output, second: Output, reference: Path | None) -> list[str]:
    found = list(read_lines(reference)) if reference is not None else first.references or second.references
    if found is None:
        raise SignificanceError("the translations to score by are not known here; give them with --reference")
    return found


def _entry(name: str, verdict: Verdict) -> dict[str, object]:
    return {
        "test": name,
        "metric": verdict.metric,
        "a": verdict.first._asdict(),
        "b": verdict.second._asdict(),
        "p": verdict.p,
        "significant": verdict.significant,
        "sentence": verdict.sentence(),
        "signature": verdict.signature,
    }


def _show(name: str, verdict: Verdict, a: Path, b: Path) -> None:
    console = Console()
    table = Table("", "system", title=name or None, title_justify="left")
    table.add_column(verdict.metric, justify="right")
    table.add_column("95 % of resamples", justify="right", no_wrap=True)
    for letter, path, estimate in (("A", a, verdict.first), ("B", b, verdict.second)):
        table.add_row(
            letter, Text(str(path)), f"{estimate.score:.2f}", f"{estimate.mean:.2f} ± {estimate.interval:.2f}"
        )
    console.print(table)
    console.print(verdict.sentence(), highlight=False, soft_wrap=True)
    console.print(verdict.signature, highlight=False, soft_wrap=True, style="dim")
