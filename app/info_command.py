"""What ``ferry info`` does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from rich.console import Console
from rich.table import Table

from model.checkpoint import SUMS, CheckpointConfig, Evaluation, load_checkpoint
from model.native import capability
from model.precision import Precision, prepare
from tokenizer.subword import load_tokenizers


class File(NamedTuple):
    """A file of a checkpoint."""

    name: str
    size: int  # bytes
    sha256: str


class Info(NamedTuple):
    """A checkpoint that was checked in full."""

    folder: Path
    config: CheckpointConfig
    parameters: int
    precision: Precision  # in which it would be served on this machine
    measured: dict[str, float]  # seconds of a decoding step in each precision that was tried
    files: list[File]


def run(folders: Sequence[Path], precision: Literal["auto"] | Precision, as_json: bool) -> None:
    """Print what each checkpoint is. Raises CheckpointError and TokenizerError for one that cannot be used."""
    for info in (inspect(folder, precision) for folder in folders):
        if as_json:
            print(_json(info))
        else:
            _print(info, Console(highlight=False, soft_wrap=True))


def inspect(folder: Path, precision: Literal["auto"] | Precision) -> Info:
    """Check a checkpoint as serving would, and gather what there is to say. Raises CheckpointError, TokenizerError."""
    checkpoint = load_checkpoint(folder)
    load_tokenizers(folder)
    entries = (line.split("  ", 1) for line in (folder / SUMS).read_text("ascii").splitlines())
    files = [File(name, (folder / name).stat().st_size, digest) for digest, name in entries]
    parameters = sum(weight.numel() for weight in checkpoint.model.parameters())
    prepared = prepare(checkpoint.model, precision)
    return Info(folder, checkpoint.config, parameters, prepared.precision, prepared.measured, files)


def _json(info: Info) -> str:
    files = [file._asdict() for file in info.files]
    content = {
        "folder": str(info.folder),
        "parameters": info.parameters,
        "serving_precision": info.precision,
        "operators": capability(),
        "step_seconds": info.measured,
        "files": files,
    }
    return json.dumps({**content, **info.config.model_dump(mode="json")}, ensure_ascii=False)


def _print(info: Info, console: Console) -> None:
    for rows in (_facts(info), _scores(info.config.evaluations), _files(info.files)):
        console.print(rows)
        console.print()


def _facts(info: Info) -> Table:
    config, model, training = info.config, info.config.model, info.config.training
    megabytes = sum(file.size for file in info.files) / 1e6
    table = Table(title=f"{config.name} {config.version}", title_justify="left", show_header=False, box=None)
    for name, value in (
        ("languages", f"{config.source} → {config.target}"),
        ("folder", str(info.folder)),
        ("size", f"{info.parameters:,} parameters, {config.precision}, {megabytes:.1f} MB"),
        ("vocabulary", f"{model.source_vocabulary:,} source pieces, {model.target_vocabulary:,} target pieces"),
        (
            "layers",
            f"{model.cell}, {model.encoder_layers} encoder, {model.decoder_layers} decoder, {model.hidden} wide,"
            f" {model.attention} attention",
        ),
        (
            "search",
            f"beam {config.beam_size}, length penalty {config.length_penalty.kind} {config.length_penalty.alpha:g},"
            f" at most {config.length_limit.cap} pieces",
        ),
        ("served here in", _serving(info)),
        ("operators", f"in C++ for {capability()}" if capability() != "none" else "none in C++, but plain torch"),
        ("trained on", "; ".join(training.data)),
        (
            "training",
            f"{training.recipe}, {training.steps:,} steps, {training.target_tokens:,} target tokens,"
            f" {training.seconds / 3600:.1f} h on {training.device}, ferry {training.ferry_version}",
        ),
        ("licence", training.licence),
    ):
        table.add_row(name, value)
    return table


def _serving(info: Info) -> str:
    steps = ", ".join(f"{name} {seconds * 1000:.2f} ms" for name, seconds in info.measured.items())
    return f"{info.precision} (a decoding step: {steps})" if steps else info.precision


def _scores(evaluations: Sequence[Evaluation]) -> Table | str:
    if not evaluations:
        return "No scores were recorded."
    table = Table("data", "split", "sentences", "beam", "BLEU", "BLEU lc", "chrF2", "TER", title="Scores", box=None)
    for row in evaluations:
        scores = (f"{score:.1f}" for score in (row.bleu, row.bleu_lc, row.chrf2, row.ter))
        table.add_row(row.data, row.split, f"{row.sentences:,}", str(row.beam_size), *scores)
    table.caption = "\n".join(f"{name}: {signature}" for name, signature in evaluations[0].signatures.items())
    return table


def _files(files: Sequence[File]) -> Table:
    table = Table("file", "bytes", "SHA-256", title="Files, all as SHA256SUMS says", box=None)
    for file in files:
        table.add_row(file.name, f"{file.size:,}", file.sha256)
    return table
