"""`s4d doctor`: is this machine ready, are these hosts ready, and what to do if they are not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s4d.cli.output import AsJson, print_json, print_lines, print_table

if TYPE_CHECKING:
    from s4d.cli.doctor_hosts import Findings


def doctor(
    hostfile: Annotated[Path | None, typer.Option(help="Check all hosts of a DeepSpeed hostfile, over ssh.")] = None,
    run_dir: Annotated[Path | None, typer.Option(help="With --hostfile: the run folder all must share.")] = None,
    interface: Annotated[
        str | None, typer.Option(help="With --hostfile: network interface; left out, that of .deepspeed_env.")
    ] = None,
    ssh_port: Annotated[int | None, typer.Option(help="With --hostfile: port of sshd on all hosts.")] = None,
    ranks: Annotated[
        int | None, typer.Option(min=1, help="Ranks of a run on this machine, to check its threads against the cores.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check packages, decoding, memory, disk and threads; exit 1 if a needed part is missing, 2 if one is too old.

    With --hostfile: can its hosts train together? Versions, clocks, cores, run folder, network.
    """
    if hostfile is not None:
        _doctor_hosts(hostfile, run_dir, interface, ssh_port, as_json)
        return

    from s4d.cli.machine_checks import VERSIONS, run_checks

    checks = run_checks(ranks)
    if as_json:
        print_json({"ok": all(check.passes for check in checks), "checks": [check.as_dict() for check in checks]})
    else:
        print_table(("part", "state", "detail", "fix"), [(c.name, c.state, c.detail, c.fix) for c in checks])
    failed = [check.name for check in checks if not check.passes]
    if failed:
        # As the start of training does.
        raise typer.Exit(2 if VERSIONS in failed else 1)


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
