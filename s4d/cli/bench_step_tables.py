"""The tables of `s4d bench step`: on the terminal, and in the README between two markers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from s4d.atomic_files import write_atomically
from s4d.cli.bench_tables import show_goals
from s4d.cli.output import print_lines, print_table
from s4d.cli.written_section import with_section
from s4d.errors import DataError

BEGIN = "<!-- written by `s4d bench step --readme`: begin -->"
END = "<!-- written by `s4d bench step --readme`: end -->"
_COLUMNS = ("side", "ms", "20-80 %", "clips/s", "images/s", "TFLOP/s", "of matmul", "ours is faster by", "peak MB")


def show(document: Mapping[str, Any]) -> None:
    """Print the sides by case, the absent ones, failures, the baseline's standing and the goals."""
    machine, ceiling = document["machine"], document["ceiling"]
    limits = [
        f"{key.removeprefix('matmul_')} {value / 1e12:.3g} TFLOP/s"
        for key, value in ceiling.items()
        if key.startswith("matmul_")
    ]
    print_lines([f"{machine['device_name']}, {machine['threads']} threads, torch {machine['versions']['torch']}"])
    print_lines([f"large products before and after, the better: {', '.join(limits)}", ""])
    for case, rows in groupby(document["rows"], key=lambda row: row["case"]):
        print_lines([case])
        print_table(_COLUMNS, [_cells(row, document) for row in rows])
    for name in ("absent", "failures"):
        for item in document[name]:
            print_lines([f"{name}: {item['case']} {item['peer']} {item['dtype']}: {item['reason']}"])
    for each in document["baseline"]:
        print_lines([_baseline(each)])
    show_goals(document["goals"])


def _cells(row: Mapping[str, Any], document: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        f"{row['peer']} {row['dtype']}",
        _number(row["median_ms"]),
        f"{_number(row['p20_ms'])}-{_number(row['p80_ms'])}",
        _number(row["clips_per_second"]),
        _number(row["images_per_second"]),
        _number(row["flops_per_second"] / 1e12),
        f"{_share(row, document):.2f}",
        _speedup(row, document),
        f"{row['peak_bytes'] / 1e6:.0f}" if row["peak_bytes"] else "",
    )


def _share(row: Mapping[str, Any], document: Mapping[str, Any]) -> float:
    """The FLOP rate of the least work as a share of the bf16 product's."""
    return float(row["flops_per_second"] / document["ceiling"]["matmul_bfloat16"])


def _speedup(row: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    for each in document["comparisons"]:
        if all(each[key] == row[key] for key in ("case", "peer", "dtype")):
            return f"{each['speedup']:.2f}x"
    return ""


def _baseline(each: Mapping[str, Any]) -> str:
    standing = "no weaker than the released code" if each["within"] else "WEAKER than the released code"
    lower, upper = each["released_clips_per_second"]
    return (
        f"release-eager {each['case']} {each['dtype']}: {each['clips_per_second']:.3g} clips/s, "
        f"{each['clips_per_matmul_tflop']:.3g} per TFLOP of a large product; the released classes {lower:g} to "
        f"{upper:g} and {each['released_clips_per_matmul_tflop']:.3g}: {each['share']:.2f}, {standing}"
    )


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def readme_lines(documents: Sequence[Mapping[str, Any]]) -> list[str]:
    """The README's table from the results of all devices."""
    if not documents:
        return ["No result is committed yet."]
    lines = [
        "| device | training step | our side | other side | clips/s | images/s | times as fast | peak memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return lines + [line for document in documents for line in _readme_rows(document)]


def _readme_rows(document: Mapping[str, Any]) -> Iterator[str]:
    rows = {(row["case"], row["peer"], row["dtype"]): row for row in document["rows"]}
    for each in document["comparisons"]:
        if each["peer"] == "bare":
            continue
        other = rows[each["case"], each["peer"], each["dtype"]]
        own = next(row for (case, peer, _), row in rows.items() if (case, peer) == (each["case"], each["ours"]))
        cells = [
            document["machine"]["device_name"],
            each["case"].replace("_", " "),
            f"{own['peer']} {own['dtype']}",
            f"{other['peer']} {other['dtype']}",
            *(_pair(own[key], other[key]) for key in ("clips_per_second", "images_per_second")),
            f"{each['speedup']:.2f}",
            f"{own['peak_bytes'] / other['peak_bytes']:.2f}x" if own["peak_bytes"] and other["peak_bytes"] else "",
        ]
        yield f"| {' | '.join(cells)} |"


def _pair(ours: float, other: float) -> str:
    return f"{_number(ours)} against {_number(other)}" if ours else ""


def committed(root: Path) -> list[dict[str, Any]]:
    """Complete results of all devices below a source tree, by device; DataError for a file that is none."""
    found = []
    for path in sorted((root / "benchmarks" / "results").glob("*/step.json")):
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if document["complete"]:
                found.append(document)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: no results of `s4d bench step`: {error!r}") from error
    return found


def with_table(text: str, documents: Sequence[Mapping[str, Any]]) -> str:
    """A README's text with the table between its markers made anew; DataError without them."""
    return with_section(text, "README.md", (BEGIN, END), readme_lines(documents))


def write_readme(root: Path) -> None:
    """Bring the README of a source tree up to date with the results in it."""
    path = root / "README.md"
    write_atomically(path, with_table(path.read_text(encoding="utf-8"), committed(root)))
