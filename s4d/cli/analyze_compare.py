"""`s4d analyze compare`: two runs on the same test samples, with the uncertainty of the difference."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s4d.cli.output import AsJson, print_json, print_lines, print_table

if TYPE_CHECKING:
    from s4d.analysis.paired_runs import PairedHeads
    from s4d.statistics import Interval


def compare(
    first: Annotated[Path, typer.Argument(help="Run folder A, or its predictions.npz.", show_default=False)],
    second: Annotated[Path, typer.Argument(help="Run folder B, or its predictions.npz.", show_default=False)],
    source: Annotated[str | None, typer.Option(help="Only this source; all they share when left out.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what run B gains over run A, with 95 % intervals; McNemar's test; calibration of both."""
    from s4d.analysis.paired_runs import compare_runs

    heads = compare_runs(first, second, source)
    if as_json:
        print_json({"first": str(first), "second": str(second), "sources": {h.source: h.to_dict() for h in heads}})
        return
    for head in heads:
        _show(head)


def _show(head: PairedHeads) -> None:
    left_out = head.only_first + head.only_second
    parts = [f"{head.source} ({head.modality}, {head.split} split): {head.samples} samples in both runs"]
    parts += [f"left out: {head.only_first} only in A, {head.only_second} only in B"] if left_out else []
    print_lines([", ".join(parts)])
    names = ("UAR", "WAR", *(f"recall of {name}" for name in head.classes))
    scores = [(each.uar, each.war, *each.recall) for each in (head.first, head.second, head.gain)]
    rows = [(name, _text(a), _text(b), _text(gain, "+")) for name, a, b, gain in zip(names, *scores, strict=True)]
    for name, field in (
        ("calibration error", "expected_error"),
        ("Brier score", "brier"),
        ("confidence", "confidence"),
    ):
        a, b = (getattr(each, field) for each in head.calibration)
        rows.append((name, f"{a:.4f}", f"{b:.4f}", f"{b - a:+.4f}"))
    print_table(("score", "A", "B", "B - A"), rows)
    test = head.test
    print_lines(
        [f"McNemar: A alone is right on {test.first_only}, B alone on {test.second_only}, p = {test.p_value:.4g}"]
    )


def _text(interval: Interval | None, sign: str = "") -> str:
    if interval is None:
        return "no sample"
    return f"{interval.value:{sign}.4f} [{interval.low:{sign}.4f}, {interval.high:{sign}.4f}]"
