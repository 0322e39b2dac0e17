"""Errors that whoever runs a command can mend, in a line."""

from __future__ import annotations

from app.settings import SettingsError


def explanation(error: Exception) -> str | None:
    """What to tell of an error in place of a traceback; None for one that is a fault of the program."""
    if isinstance(error, BrokenPipeError):  # whoever read the output has had enough; Typer ends quietly
        return None
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, (SettingsError, OSError)):
        return str(error)
    return str(error) if isinstance(error, _expected()) else None


def _expected() -> tuple[type[Exception], ...]:
    """Errors of the other parts, imported late: torch takes seconds, and --help should not."""
    from app.files import InputError
    from app.translator import DuplicatePairError, TranslationError
    from app.workers import WorkersFailedError
    from model.checkpoint import CheckpointError
    from model.precision import PrecisionError
    from tokenizer.subword import TokenizerError

    return (
        CheckpointError,
        PrecisionError,
        TokenizerError,
        TranslationError,
        DuplicatePairError,
        InputError,
        WorkersFailedError,
    )
