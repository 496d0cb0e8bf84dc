"""`s4d golden`: does this build still compute what the released model classes compute."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s4d.cli.output import AsJson, print_json, print_lines, print_table, relative

if TYPE_CHECKING:
    from s4d.golden import GoldenReport


def golden(
    files: Annotated[list[Path], typer.Argument(help="Stored inputs, weights and results.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Replay golden files with the reference in float64 and with every backend in float32; exit 1 on a difference."""
    from s4d.golden import replay_all

    reports = replay_all(files)
    failed = [report for report in reports if not report.passed]
    if as_json:
        print_json({"passed": not failed, "reports": [report.to_dict() for report in reports]})
    else:
        print_table(("file", "precision", "backends", "tensors", "worst error", "result"), [_row(r) for r in reports])
        print_lines([f"refused: {relative(r.path)}, {_backends(r)}: {r.refusal}" for r in reports if r.refusal])
        print_lines([line for report in failed for line in _reasons(report)])
        print_lines([f"{len(reports) - len(failed)} of {len(reports)} replays passed or refused with a reason"])
    if failed:
        raise typer.Exit(1)


def _row(report: GoldenReport) -> tuple[object, ...]:
    worst = f"{report.worst.name} {report.worst.relative_error:.1e}" if report.worst else ""
    result = "refused" if report.refusal else "ok" if report.passed else "FAILED"
    return Path(report.path).name, report.dtype, _backends(report), len(report.checks), worst, result


def _reasons(report: GoldenReport) -> list[str]:
    """What makes a report fail, one line per tensor."""
    start = f"failed: {relative(report.path)}, {report.dtype}, {_backends(report)}:"
    wrong = [
        f"{start} {check.name}: relative error {check.relative_error:.1e}, at most {check.tolerance:.0e}"
        for check in report.checks
        if not check.passed
    ]
    return wrong + [f"{start} {name}: not part of the replay" for name in report.unaccounted]


def _backends(report: GoldenReport) -> str:
    return " ".join(f"{op}={backend}" for op, backend in report.backends.items())
