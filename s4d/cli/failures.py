"""The one place where exceptions become an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

INTERRUPTED = 130


def run_guarded(app: typer.Typer, arguments: Sequence[str] | None) -> int:
    """Run `app`; an exception with an integer `exit_code` ends as one line on stderr and that status.

    So does what the operating system refuses (a full disk, no permission), with status 1.

    `S4D_TRACEBACK=1` shows where it was raised. Any other exception is a defect of ours and keeps its traceback.
    """
    command = typer.main.get_command(app)
    try:
        result = command.main(
            args=None if arguments is None else list(arguments), prog_name="s4d", standalone_mode=False
        )
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("s4d: interrupted\n")
        return INTERRUPTED
    except Exception as error:
        status = 1 if isinstance(error, OSError) and error.strerror else getattr(error, "exit_code", None)
        if not isinstance(status, int) or os.environ.get("S4D_TRACEBACK") == "1":
            raise
        text = _one_line(error)
        if text:  # empty where the help was printed instead
            sys.stderr.write(f"s4d: error: {text}\n")
        return status
    return result if isinstance(result, int) else 0


def _one_line(error: Exception) -> str:
    text = error.format_message() if hasattr(error, "format_message") else str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(text.split())
