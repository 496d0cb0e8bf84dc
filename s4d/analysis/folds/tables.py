"""The result of all folds on disk: folds.json, folds.md, folds.csv, folds.tex and the pooled predictions."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s4d.analysis.folds.results import WEIGHTS, FoldScores, Row
from s4d.analysis.predictions import predictions_npz
from s4d.atomic_files import write_atomically
from s4d.json_text import to_json
from s4d.statistics import Interval

_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {letter: f"\\{letter}" for letter in "&%$#_{}"}


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldReport:
    """Everything the files say; `missing` gives each fold that is not in the table, with the reason."""

    name: str
    folds: tuple[int, ...]
    missing: Mapping[int, str]
    heads: Sequence[FoldScores]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "name": self.name,
            "folds": list(self.folds),
            "missing": {str(fold): reason for fold, reason in self.missing.items()},
            "tables": [head.to_dict() for head in self.heads],
        }


def write_report(report: FoldReport, out: Path) -> list[Path]:
    """Write all files, each whole or not at all; returns their paths."""
    texts: dict[str, str | bytes] = {
        "folds.md": markdown(report),
        "folds.csv": csv_text(report),
        "folds.tex": latex(report),
        "folds.json": to_json(report.to_dict()),
    }
    for weights, suffix in WEIGHTS.items():
        pooled = [head.pooled.predictions for head in report.heads if head.weights == weights and head.pooled]
        if pooled:
            texts[f"predictions{suffix}.npz"] = predictions_npz(pooled)
    for name, text in texts.items():
        write_atomically(out / name, text)
    return [out / name for name in texts]


def markdown(report: FoldReport) -> str:
    """Tables for people: percent, with the 95 % intervals and the confusion matrix of the pooled samples."""
    lines = [f"# {_cell(report.name)}", "", _coverage(report), ""]
    for head in report.heads:
        columns = ["fold", "samples", *map(_cell, head.classes), "UAR", "WAR"]
        lines += [f"## {_cell(head.source)} ({head.modality}), {head.weights} weights", ""]
        lines += [_pipes(columns), f"|---|{'---:|' * (len(columns) - 1)}"]
        lines += [
            _pipes([row.label, "" if row.samples is None else str(row.samples), *map(_percent, _numbers(row))])
            for row in head.rows
        ]
        lines += ["", *_pooled_lines(head), ""]
    return "\n".join(lines)


def _pooled_lines(head: FoldScores) -> list[str]:
    if head.pooled is None:
        return [f"Not pooled: {head.not_pooled}."]
    found = head.pooled
    ranges = f"UAR {_range(found.intervals.uar)}, WAR {_range(found.intervals.war)}"
    header = _pipes(["true \\ predicted", *map(_cell, head.classes)])
    confusion = [
        _pipes([_cell(name), *map(str, counts)])
        for name, counts in zip(head.classes, found.scores.confusion.tolist(), strict=True)
    ]
    return [
        f"Pooled, with 95 % intervals over test samples: {ranges}. "
        f"Expected calibration error: {_percent(found.calibration_error)}.",
        "",
        header,
        f"|---|{'---:|' * len(head.classes)}",
        *confusion,
    ]


def csv_text(report: FoldReport) -> str:
    """All rows as shares of 1, one table; a class has its column in every source that knows it."""
    classes = list(dict.fromkeys(name for head in report.heads for name in head.classes))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["source", "weights", "fold", "samples", "uar", "war", *(f"recall {name}" for name in classes)])
    for head in report.heads:
        for row in head.rows:
            recall = dict(zip(head.classes, row.recall, strict=True))
            numbers = [row.uar, row.war, *(recall.get(name) for name in classes)]
            cells = ["" if number is None else f"{number:.6f}" for number in numbers]
            samples = "" if row.samples is None else row.samples
            writer.writerow([head.source, head.weights, row.label, samples, *cells])
    return text.getvalue()


def latex(report: FoldReport) -> str:
    """One booktabs `tabular` for each source and set of weights, in percent."""
    lines = ["% needs \\usepackage{booktabs}", f"% {_comment(report.name)}: {_comment(_coverage(report))}"]
    for head in report.heads:
        lines += ["", f"% {_comment(head.source)} ({head.modality}), {head.weights} weights"]
        lines += [f"\\begin{{tabular}}{{lr{'r' * len(head.classes)}rr}}", "\\toprule"]
        lines += [_ampersands(["Fold", "Samples", *head.classes, "UAR", "WAR"]), "\\midrule"]
        for row in head.rows:
            lines += ["\\midrule"] if row.label == head.mean.label else []
            samples = "" if row.samples is None else str(row.samples)
            lines += [_ampersands([row.label, samples, *map(_percent, _numbers(row))])]
        lines += ["\\bottomrule", "\\end{tabular}"]
    return "\n".join(lines) + "\n"


def _coverage(report: FoldReport) -> str:
    there = [str(fold) for fold in report.folds if fold not in report.missing]
    text = f"Folds {', '.join(there)} of {', '.join(map(str, report.folds))}."
    if report.missing:
        text += " Missing: " + "; ".join(f"fold {fold} ({reason})" for fold, reason in report.missing.items()) + "."
    return text


def _numbers(row: Row) -> tuple[float | None, ...]:
    return (*row.recall, row.uar, row.war)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def _range(interval: Interval) -> str:
    return f"{_percent(interval.value)} [{_percent(interval.low)}, {_percent(interval.high)}]"


def _pipes(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return _comment(text).replace("|", "\\|")


def _ampersands(cells: Sequence[str]) -> str:
    return f"{' & '.join(''.join(_LATEX.get(letter, letter) for letter in cell) for cell in cells)} \\\\"


def _comment(text: str) -> str:
    """Text on one line."""
    return " ".join(text.split())
