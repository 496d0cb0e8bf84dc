"""The points of a scaling study, and how efficient each is against the smallest number of ranks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Strong: the batch of a step stays. Weak: the batch of a rank stays, so a step's grows with the ranks.
MODES = ("strong", "weak")
# Step 1 of ZeRO 3 records the order of the modules; from step 3 on all steps are alike.
WARM_UP = 3
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One run to measure: ZeRO stage, ranks, and how many times the configured batch a step takes."""

    stage: int
    ranks: int
    batches: int


def points_of(ranks: Sequence[int], stages: Sequence[int], modes: Sequence[str]) -> list[Point]:
    """Every run the modes need, each once: a strong and a weak run on one rank are the same."""
    found = [
        Point(stage=stage, ranks=count, batches=count if mode == "weak" else 1)
        for count in ranks
        for stage in stages
        for mode in modes
    ]
    return list(dict.fromkeys(found))


def rows_of(measured: Mapping[Point, Row], modes: Sequence[str]) -> list[Row]:
    """A row for each point of each mode: what was measured there, with its efficiency."""
    rows = []
    for mode in modes:
        chosen = [point for point in measured if point.batches == (point.ranks if mode == "weak" else 1)]
        for point in sorted(chosen, key=lambda point: (point.stage, point.ranks)):
            least = min((other for other in chosen if other.stage == point.stage), key=lambda other: other.ranks)
            row = {"mode": mode, "stage": point.stage, "ranks": point.ranks, **measured[point]}
            rows.append({**row, "efficiency": _efficiency(row, measured[least], least.ranks), "against": least.ranks})
    return rows


def _efficiency(row: Row, least: Row, least_ranks: int) -> float:
    """Samples a second of one rank, over those where fewest ranks ran."""
    own: float = row["samples_per_second"] / row["ranks"]
    return own / (least["samples_per_second"] / least_ranks)


def notes_on(rows: Iterable[Row]) -> list[str]:
    """What a reader must know of the machine to judge the rows."""
    rows = list(rows)
    if any(row["device"] != "cpu" for row in rows):
        return ["a rank has a GPU of its own"]
    threads = rows[0]["threads_per_rank"]
    text = f"CPU ranks share one machine: {threads} threads and {rows[0]['cores_per_rank']} cores a rank at every point"
    text += ", memory bandwidth and caches between them"
    crowded = sorted({row["ranks"] for row in rows if row["shares_cores"]})
    if crowded:
        counts = " and ".join(map(str, crowded))
        text += f"; with {counts} ranks there are fewer cores than that, so ranks take turns on them"
    return [text]
