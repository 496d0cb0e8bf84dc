"""The decoders that are compared, and the figures of each over its seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One decoder: its kind, and the share of the masked tokens that it predicts in training."""

    name: str
    decoder: str
    decode_ratio: float

    @property
    def overrides(self) -> list[str]:
        """What it changes in a configuration."""
        share = f"{{image: {self.decode_ratio}, video: {self.decode_ratio}}}"
        return [f"model.decoder={self.decoder}", f"data.decode_ratio={share}"]


# The first one is the default, which the others are compared with.
ARMS = (
    Arm(name="joint", decoder="joint", decode_ratio=1.0),
    Arm(name="joint, half", decoder="joint", decode_ratio=0.5),
    Arm(name="cross", decoder="cross", decode_ratio=1.0),
    Arm(name="cross, half", decoder="cross", decode_ratio=0.5),
)
# An encoder with the weights it starts from, for scale.
UNTRAINED = "untrained"
FIGURES = ("loss/image", "loss/video", "uar/image", "uar/video")


def summarise(speed: Sequence[Row], quality: Sequence[Row]) -> list[Row]:
    """A line for each arm: its step beside the default's, mean and deviation of each figure, and paired differences.

    Seeds are pairs: the same samples, masks and encoder weights in every arm. `difference` has the mean over seeds and
    its standard error, None with a single seed.
    """
    default = {row["seed"]: row for row in quality if row["arm"] == ARMS[0].name}
    lines = []
    for name in (*(arm.name for arm in ARMS), UNTRAINED):
        own = [row for row in quality if row["arm"] == name]
        timed = next((row for row in speed if row["arm"] == name), None)
        if not own and timed is None:
            continue
        figures, differences = {}, {}
        for figure in FIGURES:
            values = [row["figures"][figure] for row in own if figure in row["figures"]]
            pairs = [
                row["figures"][figure] - default[row["seed"]]["figures"][figure]
                for row in own
                if figure in row["figures"] and row["seed"] in default
            ]
            if values:
                figures[figure] = {"mean": statistics.mean(values), "deviation": _deviation(values)}
            if pairs and name != ARMS[0].name:
                error = _deviation(pairs)
                error = None if error is None else error / len(pairs) ** 0.5
                differences[figure] = {"mean": statistics.mean(pairs), "error": error}
        lines.append({"arm": name, "step": timed, "seeds": len(own), "figures": figures, "difference": differences})
    return lines


def _deviation(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def table(summary: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Cells of `COLUMNS` for each line of a summary."""
    rows = []
    for line in summary:
        step, figures = line["step"], line["figures"]
        steps = ("", "", "", "")
        if step is not None:
            peak = step["peak_bytes"]
            steps = (
                f"{step['flops'] / 1e9:.0f}",
                f"{step['median_ms']:.0f}",
                f"{step['speedup']:.2f}",
                f"{peak / 1e6:.0f}" if peak else "",
            )
        rows.append((line["arm"], *steps, *(_figure(figures.get(name)) for name in FIGURES)))
    return rows


COLUMNS = (
    "decoder",
    "GFLOP a step",
    "ms a step",
    "times as fast",
    "peak MB",
    "held-out loss, images",
    "held-out loss, clips",
    "probe UAR, images",
    "probe UAR, clips",
)


def _figure(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    spread = "" if found["deviation"] is None else f" +- {found['deviation']:.3f}"
    return f"{found['mean']:.3f}{spread}"
