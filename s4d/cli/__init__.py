"""The `s4d` command. Nothing heavy is imported until a command runs, so that help and typing errors answer at once."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0 success, 1 a failed check or bad data, 2 wrong usage."""
    from s4d.cli.app import build_app
    from s4d.cli.failures import run_guarded

    return run_guarded(build_app(), arguments)
