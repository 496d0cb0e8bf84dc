"""The tables that `s4d bench` shows, at most 120 columns wide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

from s4d.cli.output import print_lines, print_table

_COLUMNS = ("peer", "forward ms", "backward ms", "both ms", "20-80 %", "roof", "TFLOP/s", "vs best", "peak MB")


def show(document: Mapping[str, Any]) -> None:
    """Print the rows by case, the absent peers by reason, failures and goals."""
    machine, ceiling = document["machine"], document["ceiling"]
    limits = [
        f"{key.removeprefix('matmul_')} {value / 1e12:.2f} TFLOP/s"
        for key, value in ceiling.items()
        if key.startswith("matmul_")
    ]
    print_lines(
        [
            f"{machine['device_name']}, {machine['threads']} threads, torch {machine['versions']['torch']}",
            f"limits of this run: {', '.join(limits)}, copy {ceiling['copy'] / 1e9:.1f} GB/s",
            "",
        ]
    )
    for place, rows in groupby(document["rows"], key=lambda row: (row["op"], row["case"], row["dtype"])):
        print_lines([" ".join(place)])
        print_table(_COLUMNS, list(_lines(list(rows))))
    print_lines(
        ["* the backend that the op picks by itself; roof: share of the roofline; vs best: the best other rival", ""]
    )
    _show_absent(document["absent"])
    if document["failures"]:
        print_lines(["wrong results, not timed:"])
        print_lines([f"  {_place(item)}: {item['reason']}" for item in document["failures"]])
    show_goals(document["goals"])


def _lines(rows: list[Mapping[str, Any]]) -> Iterator[tuple[object, ...]]:
    for peer, group in groupby(rows, key=lambda row: row["peer"]):
        phases = {row["phase"]: row for row in group}
        whole = phases.get("both") or phases["forward"]
        yield (
            peer + ("*" if whole["automatic"] else ""),
            *(_number(phases[name]["median_ms"]) if name in phases else "" for name in ("forward", "backward", "both")),
            f"{_number(whole['p20_ms'])}-{_number(whole['p80_ms'])}",
            f"{whole['roofline_share']:.0%}" if "roofline_share" in whole else "",
            _number(whole["flops_per_second"] / 1e12) if "flops_per_second" in whole else "",
            f"{whole['ratio_to_best']:.2f}x" if whole["ratio_to_best"] is not None else "",
            f"{whole['peak_bytes'] / 1e6:.1f}",
        )


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _place(item: Mapping[str, str]) -> str:
    return " ".join(item[key] for key in ("op", "case", "dtype", "peer"))


def _show_absent(absent: list[Mapping[str, str]]) -> None:
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for item in absent:
        reasons.setdefault((item["op"], item["peer"], item["reason"]), []).append(item["case"])
    if reasons:
        print_lines(["absent:"])
    for (op, peer, reason), cases in reasons.items():
        names = list(dict.fromkeys(cases))
        where = ", ".join(names) if len(names) <= 3 else f"{len(names)} cases"
        print_lines([f"  {op} {peer} ({where}): {reason}"])


def show_goals(goals: list[Mapping[str, Any]]) -> None:
    """Print each goal with its value and state."""
    shown = [goal for goal in goals if goal["state"] != "absent"]
    if shown:
        print_lines(["", "goals"])
        print_table(("row", "goal", "value", "state", "compared"), [_goal(goal) for goal in shown])
    if len(shown) < len(goals):
        print_lines([f"{len(goals) - len(shown)} goals of this device have no rows in this run"])


def _goal(goal: Mapping[str, Any]) -> tuple[object, ...]:
    value = "" if goal["value"] is None else f"{goal['value']:.3g}"
    return goal["row"], goal["goal"], value, goal["state"], goal["detail"]
