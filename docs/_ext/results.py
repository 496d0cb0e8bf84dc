"""The performance page's tables, from the result files of the benchmark commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from markdown_table import code, table

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"


def goal_tables() -> str:
    """For each device and result file with goals: where and when it was measured, and every goal with its value."""
    parts = []
    for folder in sorted(path for path in RESULTS.iterdir() if path.is_dir()):
        documents = [(path, _read(path)) for path in sorted(folder.glob("*.json"))]
        with_goals = [(path, document) for path, document in documents if document.get("goals")]
        if with_goals:
            machine = with_goals[0][1]["machine"]
            parts.append(f"### {machine['device_name']}, {machine['cores']} cores\n")
            parts += [_goals_text(path, document) for path, document in with_goals]
    return "\n".join(parts)


def step_table() -> str:
    """Whole training steps beside other code, for each device with such a file."""
    rows = [
        (
            document["machine"]["device_name"],
            each["case"].replace("_", " "),
            f"{each['ours']} against {each['peer']}, {each['dtype']}",
            f"{each['speedup']:.2f}",
            f"{each['p20']:.2f} to {each['p80']:.2f}",
        )
        for document in map(_read, sorted(RESULTS.glob("*/step.json")))
        for each in document["comparisons"]
    ]
    return table(("device", "step", "sides", "times as fast", "20 to 80 % of the rounds"), rows)


def scorecard_table() -> str:
    """The scorecard's own table with the promise of each row in a few words."""
    folder = RESULTS / "cpu"
    goals = {name: row["goal"] for name, row in _read(folder / "scorecard.json").items()}
    header, _, *lines = (folder / "scorecard.md").read_text(encoding="utf-8").splitlines()
    columns, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in (header, *lines))
    return table((columns[0], "Promise", *columns[1:]), ((row[0], goals[row[0]], *row[1:]) for row in rows))


def _goals_text(path: Path, document: dict[str, Any]) -> str:
    when = f"{document['date'][:10]}, commit {code(document['commit'][:7])}, file {code('/'.join(path.parts[-4:]))}"
    shown = [goal for goal in document["goals"] if goal["state"] != "absent"]
    left_out = len(document["goals"]) - len(shown)
    rest = f"\n{left_out} more goals are for other devices.\n" if left_out else ""
    listed = table(("goal", "value", "state", "compared"), map(_goal, shown))
    return f"#### {document['what']}\n\nMeasured on {when}.\n\n{listed}{rest}"


def _goal(goal: dict[str, Any]) -> tuple[str, ...]:
    value = "" if goal["value"] is None else f"{goal['value']:.3g}"
    return goal["goal"], value, goal["state"], goal["detail"]


def _read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document
