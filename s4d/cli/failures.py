"""The one place where exceptions become an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

from s4d.cli import INTERRUPTED
from s4d.errors import UsageError


def run_guarded(app: typer.Typer, arguments: Sequence[str] | None) -> int:
    """Run `app`; an exception with an integer `exit_code` ends as one line on stderr and that status.

    So does what the operating system refuses (a full disk, no permission), with status 1.

    `S4D_TRACEBACK=1` shows where it was raised. Any other exception is a defect of ours and keeps its traceback.
    """
    status = _run(app, list(sys.argv[1:] if arguments is None else arguments))
    try:
        sys.stdout.flush()
    except OSError as error:
        # The interpreter would try again as it ends, and end with a message and a status of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        # Nobody reads on, as in `| head`: that is no news to whoever asked for it.
        if status == 0 and not isinstance(error, BrokenPipeError):
            _tell(error)
        return status or 1
    return status


def _run(app: typer.Typer, arguments: list[str]) -> int:
    command = typer.main.get_command(app)
    try:
        _refuse_empty(arguments)
        result = command.main(args=arguments, prog_name="s4d", standalone_mode=False)
    except typer.Abort:
        return INTERRUPTED
    except Exception as error:
        status = 1 if isinstance(error, OSError) and error.strerror else getattr(error, "exit_code", None)
        if not isinstance(status, int) or os.environ.get("S4D_TRACEBACK") == "1":
            raise
        _tell(error)
        return status
    return result if isinstance(result, int) else 0


def _refuse_empty(arguments: list[str]) -> None:
    """UsageError for an empty argument: as a path it would be the working directory, as a pattern everything."""
    for place, argument in enumerate(arguments):
        if not argument or (argument.startswith("--") and argument.endswith("=")):
            where = argument or (f"the one behind {arguments[place - 1]!r}" if place else "the first")
            raise UsageError(f"an argument is empty: {where}; is a variable of the shell not set?")


def _tell(error: Exception) -> None:
    text = error.format_message() if hasattr(error, "format_message") else str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    text = " ".join(text.split())
    if text:  # empty where the help was printed instead
        sys.stderr.write(f"s4d: error: {text}\n")
