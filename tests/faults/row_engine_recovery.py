"""R21, the engine's share: as R21, without the launcher, the start of Python and its imports."""

from __future__ import annotations

from pathlib import Path

import trials
from calm import Calm
from row_recovery import recover

calm: Calm


def prepare(folder: Path) -> None:
    """Start the server of the trials."""
    global calm
    calm = Calm(trials.Bench(folder))


def run(number: int, folder: Path) -> tuple[str, float]:
    """Kill a pair of forked ranks, measure until a step is logged that had not been."""
    return "recovered", recover(calm, "pair", number)
