"""What the data path must reach against the plain pipeline on the same files and draws in the same run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
PLAIN, TUNED = "plain", "plain_tuned"


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """`backend` makes at least `must` times the samples a second of the plain pipeline, each at its best workers."""

    modality: str
    backend: str
    crop: str
    must: float

    @property
    def text(self) -> str:
        """The goal in words."""
        return f"{self.modality}, {self.crop} crop: {self.backend} at least {self.must:g}x the plain pipeline"


GOALS = (
    Goal(modality="video", backend="pyav", crop="recipe", must=1.5),
    Goal(modality="video", backend="cache", crop="recipe", must=5),
    Goal(modality="video", backend="cache", crop="plain", must=50),
)


def evaluate(rows: Sequence[Row]) -> list[dict[str, object]]:
    """Every goal with the `value` that the rows give, and its `state`: pass, fail, or absent without the rows."""
    return [_outcome(goal, rows) for goal in GOALS]


def best(rows: Sequence[Row], modality: str, backend: str, crop: str) -> Row | None:
    """The row with the most samples a second of a backend."""
    fitting = [row for row in rows if (row["modality"], row["backend"], row["crop"]) == (modality, backend, crop)]
    return max(fitting, key=lambda row: float(row["samples_per_second"]), default=None)


def _outcome(goal: Goal, rows: Sequence[Row]) -> dict[str, object]:
    ours, plain = (best(rows, goal.modality, backend, goal.crop) for backend in (goal.backend, PLAIN))
    if ours is None or plain is None:
        detail = f"no rows of {goal.backend if ours is None else PLAIN}"
        return {"goal": goal.text, "must": goal.must, "value": None, "state": "absent", "detail": detail}
    value = ours["samples_per_second"] / plain["samples_per_second"]
    detail = f"{ours['workers']} against {plain['workers']} workers"
    tuned = best(rows, goal.modality, TUNED, goal.crop)
    if tuned is not None:
        detail += f"; {ours['samples_per_second'] / tuned['samples_per_second']:.2f}x the tuned one"
    state = "pass" if value >= goal.must else "fail"
    return {"goal": goal.text, "must": goal.must, "value": value, "state": state, "detail": detail}
