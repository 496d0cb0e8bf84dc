"""`s4d doctor`: is this machine ready, are these hosts ready, and what to do if they are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s4d.cli.doctor_check import LIVE
from s4d.cli.output import AsJson, print_json, print_lines, print_table
from s4d.errors import UsageError

if TYPE_CHECKING:
    from s4d.cli.doctor_hosts import Findings
    from s4d.cli.machine_checks import Report


def doctor(
    hostfile: Annotated[Path | None, typer.Option(help="Check all hosts of a DeepSpeed hostfile, over ssh.")] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="The run folder, whose disk is checked; with --hostfile all must share it.")
    ] = None,
    interface: Annotated[
        str | None, typer.Option(help="With --hostfile: network interface; left out, that of .deepspeed_env.")
    ] = None,
    ssh_port: Annotated[int | None, typer.Option(help="With --hostfile: port of sshd on all hosts.")] = None,
    ranks: Annotated[
        int | None, typer.Option(min=1, help="Ranks of a run on this machine, to check its threads against the cores.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what is live on this machine, how to get what is not, and what `auto` would choose here.

    Exit status 1 if a needed part is missing, 2 if a version does not fit.

    With --hostfile: can its hosts train together? Versions, clocks, cores, run folder, network.
    """
    if hostfile is not None:
        _doctor_hosts(hostfile, run_dir, interface, ssh_port, as_json)
        return
    if interface is not None or ssh_port is not None:
        raise UsageError("--interface, --ssh-port: belong to --hostfile")

    from s4d.cli.machine_checks import VERSIONS, examine

    report = examine(ranks, run_dir)
    if as_json:
        print_json(report.as_dict())
    else:
        _print_report(report)
    if report.failed:
        # As the start of training does.
        raise typer.Exit(2 if VERSIONS in report.failed else 1)


def _print_report(report: Report) -> None:
    """Parts by group, each with its fix below it; then what training would choose."""
    heading = ""
    for check in report.checks:
        if check.group != heading:
            print_lines([*([""] if heading else []), check.group])
            heading = check.group
        verdict = check.verdict
        print_lines([f"  {verdict.state:<8}{check.name:<16}{verdict.detail}"], under=" " * 24)
        if verdict.fix:
            print_lines([f"{'':26}fix: {verdict.fix}"], under=" " * 5)
    device = report.choices.get("device")
    if device is not None:
        print_lines(["", f"chosen by `auto` for training here ({device})"])
        for op, backend, reason in merged(report.choices["ops"]):
            line = f"  {op:<16}{backend:<12}{reason}"
            print_lines([line], under=" " * (30 - len(line) + len(line.lstrip())))
    print_lines([""])
    if report.failed:
        print_lines([f"this machine cannot train yet: {', '.join(report.failed)}"])
    else:
        idle = [check.name for check in report.checks if check.verdict.state not in LIVE]
        print_lines([f"this machine can train; not live: {', '.join(idle) or 'nothing'}"])


def merged(choices: Sequence[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """A line for each op and backend, with the cases that the backend serves for one reason; an op is named once.

    Where one backend serves every case they are left out.
    """
    cases: dict[tuple[str, str, str], list[str]] = {}
    for choice in choices:
        cases.setdefault((choice["op"], choice["backend"] or "refused", choice["why"]), []).append(choice["case"])
    groups = Counter(op for op, _, _ in cases)
    lines, named = [], ""
    for (op, backend, why), served in cases.items():
        shown = ", ".join(filter(None, served)) if groups[op] > 1 or len(served) == 1 else ""
        lines.append(("" if op == named else op, backend, f"{shown}; {why}" if shown else why))
        named = op
    return lines


def _doctor_hosts(
    hostfile: Path, run_dir: Path | None, interface: str | None, ssh_port: int | None, as_json: bool
) -> None:
    from s4d.cli.doctor_hosts import check_exports, check_ssh, examine
    from s4d.hostfile import read_exported, read_hostfile

    hosts, exported = read_hostfile(hostfile), read_exported()
    interface = interface or exported.get("GLOO_SOCKET_IFNAME")
    findings = examine(hosts, run_dir=run_dir, interface=interface, ssh_port=ssh_port)
    if len(hosts) > 1:
        check_exports(findings, exported)
        check_ssh(findings, hosts[0].name)
    if as_json:
        print_json(findings.as_dict())
    else:
        _print_findings(findings)
    if findings.problems:
        raise typer.Exit(1)


def _print_findings(findings: Findings) -> None:
    rows = []
    for host, facts in findings.facts.items():
        links = ", ".join(f"{name} {address}" for name, address in facts["interfaces"].items() if name != "lo")
        offset = f"{facts['clock_offset']:+.3f} s" if "clock_offset" in facts else ""
        rows.append((host, *facts["versions"].values(), facts["cores"], facts["devices"], links, offset))
    if rows:
        parts = next(iter(findings.facts.values()))["versions"]
        print_table(("host", *parts, "cores", "devices", "interfaces", "clock"), rows)
    problems = findings.problems
    print_lines([f"{problem.host}: {problem.problem}; fix: {problem.fix}" for problem in problems])
    print_lines([f"{len(problems)} problems" if problems else f"{len(rows)} hosts are ready"])
