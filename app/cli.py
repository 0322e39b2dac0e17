"""The ``ferry`` command: serve, translate files, look into checkpoints."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from app.collecting import importing
from app.explain import explanation
from app.hangup import Hangup
from app.settings import PREFIX, Settings, flag, load_settings

# What computes is imported by the command that computes: torch takes seconds, and --help should not.

application = typer.Typer(
    help="Translate with checkpoints made by ferry-train.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Entry point of the ``ferry`` command."""
    application()


@application.command()
def serve(**flags: Any) -> None:
    """Serve translations over HTTP until SIGTERM or Ctrl-C; SIGHUP reads the checkpoints anew.

    Each flag is also an environment variable.
    """
    with _explained():
        settings = load_settings(flags)
        if settings.workers > 1:
            from app import workers

            workers.serve(settings)
        else:
            hangup = Hangup()
            with importing():
                from app import server
            server.serve(settings, hangup)


def _serve_parameters() -> list[inspect.Parameter]:
    """A flag for each setting. Values stay text here, so that flags and variables are checked in one place."""
    parameters = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default in ((), None) else f" Default: {field.default}."
        text = f"{field.description}{default} Variable: {PREFIX}{name.upper()}."
        option = typer.Option(flag(name), help=text, show_default=False, metavar=_metavar(name))
        annotation = Annotated[list[Path] | None, option] if name == "checkpoints" else Annotated[str | None, option]
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))
    return parameters


def _metavar(name: str) -> str:
    if name == "checkpoints":
        return "DIR"
    return "NUMBER" if any(kind in str(Settings.model_fields[name].annotation) for kind in ("int", "float")) else "TEXT"


serve.__signature__ = inspect.Signature(_serve_parameters())  # type: ignore[attr-defined]


@application.command()
def translate(
    source_file: Annotated[
        Path | None, typer.Argument(metavar="INPUT", help="UTF-8 text; standard input if - or absent.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to this file, not to standard output.")
    ] = None,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Checkpoint folder, repeatable; else FERRY_CHECKPOINTS, else the bundled."),
    ] = None,
    source: Annotated[str | None, typer.Option(help="Language of the input, if pairs leave a choice.")] = None,
    target: Annotated[str | None, typer.Option(help="Language of the output, if pairs leave a choice.")] = None,
    document: Annotated[
        bool, typer.Option("--document", help="Take the input as one text and split it into sentences.")
    ] = False,
    beam_size: Annotated[int | None, typer.Option(min=1, help="Hypotheses kept at each step.")] = None,
    n_best: Annotated[int, typer.Option(min=1, help="Translations a line, as: number ||| translation ||| score.")] = 1,
    length_penalty: Annotated[float | None, typer.Option(min=0, max=5, help="Exponent of the length penalty.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line: text, score, alternatives.")] = False,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "int8"],
        typer.Option(help="Arithmetic of the model; auto measures and takes the fastest."),
    ] = "float32",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads for computing; else the cores at hand.")] = None,
    progress: Annotated[
        bool | None, typer.Option(help="Progress bar on standard error; else only on a terminal.")
    ] = None,
) -> None:
    """Translate standard input or a file to standard output or a file; each line is a segment."""
    if document and n_best > 1 and not as_json:
        raise typer.BadParameter("--document with --n-best needs --json, else the texts could not be told apart")
    if beam_size is not None and n_best > beam_size:
        raise typer.BadParameter(f"--n-best is {n_best}; it must not exceed --beam-size, which is {beam_size}")
    with _explained():
        from app import translate_command
        from app.translator import TranslationOptions

        options = TranslationOptions(beam_size=beam_size, n_best=n_best, length_penalty=length_penalty)
        shown = sys.stderr.isatty() if progress is None else progress
        task = translate_command.Task(source_file, output, document, as_json, shown, options, precision)
        settings = load_settings({"checkpoints": checkpoint or None, "threads": threads})
        translate_command.run(settings, source, target, task)


@application.command()
def info(
    checkpoint: Annotated[
        list[Path] | None, typer.Argument(metavar="CHECKPOINT", help="Folders; else the bundled.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line.")] = False,
) -> None:
    """Check a checkpoint and show its languages, sizes, scores, licence and hashes."""
    with _explained():
        from app import info_command

        settings = load_settings({"checkpoints": checkpoint or None})
        info_command.run(settings.checkpoint_folders(), settings.precision, as_json)


@application.command()
def bench(
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Checkpoint folder; else the first that ferry serve would load.")
    ] = None,
    reference: Annotated[
        bool, typer.Option("--reference", help="The reference shape with random weights, not a checkpoint.")
    ] = False,
    source: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Text, a sentence a line; else random pieces.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="As for ferry serve.")] = None,
    shortlist: Annotated[bool | None, typer.Option(help="As for ferry serve.")] = None,
    beam_size: Annotated[int | None, typer.Option(min=1, help="Hypotheses kept at each step.")] = None,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Sentences together; repeatable.")] = None,
    sentences: Annotated[int, typer.Option(min=1, help="Translated in each round, for each batch size.")] = 256,
    rounds: Annotated[int, typer.Option(min=1, help="Of the throughput; the median counts.")] = 3,
    singles: Annotated[int, typer.Option(min=1, help="Sentences translated one at a time.")] = 40,
    load_seconds: Annotated[float, typer.Option(min=0, help="For each load of the service; 0 leaves it out.")] = 10.0,
    seed: Annotated[int, typer.Option(help="Of the arrivals.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads for computing; else the cores at hand.")] = None,
    queue_tokens: Annotated[int | None, typer.Option(min=64, help="As for ferry serve.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Also draw the figures, as SVG.")] = None,
) -> None:
    """Measure this machine: speed by batch size, latency by length, and the service under load."""
    if reference and (checkpoint or source):
        raise typer.BadParameter("--reference has random weights and no tokenizer: leave out --checkpoint and --source")
    if plot is not None and plot.suffix != ".svg":
        raise typer.BadParameter(f"--plot is {plot}; the plot is SVG, so give a name that ends in .svg")
    with _explained():
        from app import bench_command

        task = bench_command.Task(
            reference=reference,
            text=source,
            beam_size=beam_size,
            batches=tuple(batch or (1, 8, 32, 128, 256)),
            sentences=sentences,
            rounds=rounds,
            singles=singles,
            load_seconds=load_seconds,
            seed=seed,
            json=as_json,
            plot=plot,
        )
        flags = {
            "checkpoints": checkpoint and (checkpoint,),
            "precision": precision,
            "shortlist": shortlist,
            "threads": threads,
            "queue_tokens": queue_tokens,
        }
        bench_command.run(load_settings(flags), task)


@contextmanager
def _explained() -> Iterator[None]:
    """An error that a user can mend becomes one line on standard error and status 1."""
    try:
        yield
    except Exception as error:
        message = explanation(error)
        if message is None:
            raise
        typer.echo(f"ferry: {message}", err=True)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    main()
