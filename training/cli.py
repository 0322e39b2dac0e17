"""From a recipe to a checkpoint, in one command (run) or step by step."""

from __future__ import annotations

import typer

from training.commands.back_translate import back_translate_command
from training.commands.compare import compare_command
from training.commands.distil import distil_command
from training.commands.evaluate import evaluate_command
from training.commands.explain import explain_command
from training.commands.run import export_command, fit_command, run_command, tokenizer_command
from training.commands.shortlist import shortlist_command
from training.commands.significance import significance_command
from training.commands.tune import tune_command

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)
app.command("run")(run_command)
app.command("tokenizer")(tokenizer_command)
app.command("fit")(fit_command)
app.command("evaluate")(evaluate_command)
app.command("export")(export_command)
app.command("shortlist")(shortlist_command)
app.command("compare")(compare_command)
app.command("significance")(significance_command)
app.command("tune")(tune_command)
app.command("explain")(explain_command)
app.command("distil")(distil_command)
app.command("back-translate")(back_translate_command)


def main() -> None:
    """The command ``ferry-train``."""
    app()


if __name__ == "__main__":
    main()
