"""R13 in fp32: a case is one way to spread a run; the value is the largest gap of its loss to one rank without ZeRO."""

from __future__ import annotations

from pathlib import Path

from zero_curves import Curves

curves: Curves


def prepare(folder: Path) -> None:
    """Start the server of the trials."""
    global curves
    curves = Curves(folder, "fp32")


def run(number: int, folder: Path) -> tuple[str, float]:
    """One run of a hundred steps."""
    return curves.gap(number)
