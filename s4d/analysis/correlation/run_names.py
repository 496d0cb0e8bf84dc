"""What runs are called where several are compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from s4d.errors import UsageError


def run_names(runs: Sequence[Path]) -> list[str]:
    """The shortest ends of the runs' paths that tell them apart; UsageError for a run that is given twice."""
    paths = [run.resolve() for run in runs]
    twice = next((path for index, path in enumerate(paths) if path in paths[:index]), None)
    if twice is not None:
        raise UsageError(f"{twice}: given twice")
    for length in range(1, max((len(path.parts) for path in paths), default=0) + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]
