"""The `s4d` command. Nothing heavy is imported until a command runs, so that help and typing errors answer at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0 success, 1 a failed check or bad data, 2 wrong usage."""
    _open_closed_streams()
    try:
        from s4d.cli.app import build_app
        from s4d.cli.failures import run_guarded

        status = run_guarded(build_app(), arguments)
    except KeyboardInterrupt:
        status = INTERRUPTED
    if status == INTERRUPTED:
        sys.stderr.write("s4d: interrupted\n")
    return status


def _open_closed_streams() -> None:
    # `>&-` leaves no stream at all; what would go there goes nowhere.
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
