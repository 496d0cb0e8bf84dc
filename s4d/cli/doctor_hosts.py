"""The checks behind `s4d doctor --hostfile`: all hosts are asked at once, each problem is one line with its fix."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from s4d.cli.doctor_link import Agent, UnansweredError, notices_a_lost_host
from s4d.hostfile import Host

GLOO_SECONDS = 15.0
CLOCK_SECONDS = 2.0
CHECKPOINTS_FREE = 2.5
MIB = 2**20
SAME_EVERYWHERE = "install the same on every node"


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """What is wrong with one host, and what to do about it."""

    host: str
    problem: str
    fix: str


@dataclass(kw_only=True, slots=True)
class Findings:
    """All that was found out about the hosts; one that does not answer has no facts."""

    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def add(self, host: str, problem: str, fix: str) -> None:
        """Note a problem."""
        self.problems.append(Problem(host=host, problem=problem, fix=fix))

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        hosts = [{"host": host, **facts} for host, facts in self.facts.items()]
        return {"ok": not self.problems, "hosts": hosts, "problems": [asdict(problem) for problem in self.problems]}


def examine(hosts: list[Host], *, run_dir: Path | None, interface: str | None, ssh_port: int | None) -> Findings:
    """Ask all hosts, compare them, let them talk to each other; later checks take only hosts that answered."""
    findings = Findings()
    agents = {host.name: Agent(host.name, ssh_port) for host in hosts}
    try:
        findings.facts = _everywhere(agents, lambda _, agent: agent.ask("facts"), findings)
        answering = {name: agents[name] for name in findings.facts}
        compare(findings, {host.name: host.slots for host in hosts})
        _compare_clocks(findings, answering)
        if run_dir is not None and answering:
            _share(findings, answering, run_dir)
        _connect(findings, answering, interface)
    finally:
        for agent in agents.values():
            agent.close()
    return findings


def _everywhere(
    agents: dict[str, Agent], ask: Callable[[str, Agent], Any], findings: Findings, fix: str = ""
) -> dict[str, Any]:
    """Answers of all agents asked at once; one that fails becomes a problem with this fix."""

    def guarded(item: tuple[str, Agent]) -> Any:
        try:
            return ask(*item)
        except UnansweredError as failure:
            return failure

    with ThreadPoolExecutor(max(len(agents), 1)) as pool:
        answers = dict(zip(agents, pool.map(guarded, agents.items()), strict=True))
    for name, answer in answers.items():
        if isinstance(answer, UnansweredError):
            findings.add(name, str(answer), fix or answer.fix)
    return {name: answer for name, answer in answers.items() if not isinstance(answer, UnansweredError)}


def compare(findings: Findings, slots: dict[str, int]) -> None:
    """Versions like those of the first host, enough cores, no lock that a start would wait for."""
    first = next(iter(findings.facts), "")
    for name, facts in findings.facts.items():
        for part, ours in findings.facts[first]["versions"].items():
            theirs = facts["versions"][part]
            if theirs != ours:
                findings.add(name, f"{part}: {theirs}, on {first} {ours}", SAME_EVERYWHERE)
        have, unit = (facts["devices"], "devices") if facts["devices"] else (facts["cores"], "cores")
        if slots[name] > have:
            findings.add(name, f"slots={slots[name]} but {have} {unit}", f"write slots={have} into the hostfile")
        for lock in facts["locks"]:
            findings.add(name, f"{lock}: a lock of a process that is gone; a start may wait for it", f"rm {lock}")


def check_exports(findings: Findings, exported: dict[str, str]) -> None:
    """What the ranks need and DeepSpeed passes on from `.deepspeed_env` alone."""
    if not findings.facts:
        return
    links = {frozenset(link for link in facts["interfaces"] if link != "lo") for facts in findings.facts.values()}
    example = min(frozenset.intersection(*links), default="eth0")
    needed = {"GLOO_SOCKET_IFNAME": example}
    if not any(facts["devices"] for facts in findings.facts.values()):
        needed |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    for name, value in needed.items():
        if name not in exported:
            fix = f"add {name}={value} (or what fits) to .deepspeed_env here or in your home folder"
            findings.add("all hosts", f"{name} does not reach the ranks from this machine", fix)


def check_ssh(findings: Findings, host: str) -> None:
    """A launcher that never hears of a lost host waits for it without end."""
    if not notices_a_lost_host(host):
        fix = "write ServerAliveInterval 10 into ~/.ssh/config here"
        findings.add("all hosts", "ssh does not notice when a host is lost: the launcher would not end", fix)


def _compare_clocks(findings: Findings, agents: dict[str, Agent]) -> None:
    """Offset of each clock against this machine's, known to half the time that the question took."""

    def offset(_: str, agent: Agent) -> tuple[float, float]:
        asked = time.time()
        there = float(agent.ask("clock"))
        answered = time.time()
        return there - (asked + answered) / 2, (answered - asked) / 2

    for name, (difference, uncertainty) in _everywhere(agents, offset, findings).items():
        findings.facts[name]["clock_offset"] = round(difference, 3)
        if abs(difference) - uncertainty > CLOCK_SECONDS:
            fix = "start a time service there: timedatectl set-ntp true"
            findings.add(name, f"its clock is {difference:+.1f} s off this machine's", fix)


def _share(findings: Findings, agents: dict[str, Agent], run_dir: Path) -> None:
    """Every host writes a file where the run folder is or will be, and every host must see all of them."""
    first = next(iter(agents))
    try:
        place = agents[first].ask("place", run_dir=str(run_dir.absolute()))
    except UnansweredError as failure:
        findings.add(first, f"{run_dir}: {failure}", "choose another run_dir")
        return
    folder, mark = place["folder"], secrets.token_hex(4)
    tokens = {name: f".s4d-doctor-{mark}-{name}" for name in agents}
    fix = f"mount the folder that all nodes share at {folder}, writable, or choose another run_dir"
    free = _everywhere(
        agents, lambda name, agent: agent.ask("write_token", folder=folder, name=tokens[name]), findings, fix
    )
    written = {name: tokens[name] for name in free}
    unseen = _everywhere(
        {name: agents[name] for name in written},
        lambda _, agent: agent.ask("unseen_tokens", folder=folder, names=list(written.values())),
        findings,
        fix,
    )
    _everywhere(agents, lambda name, agent: agent.ask("remove_token", folder=folder, name=tokens[name]), findings, fix)
    for name, missing in unseen.items():
        others = [other for other, token in written.items() if token in missing]
        if others and name != first:
            findings.add(name, f"run_dir: {folder} is not shared: it does not see what {others[0]} writes there", fix)
    needed = CHECKPOINTS_FREE * (place["checkpoint_bytes"] or 0)
    if first in free and free[first] < needed:
        problem = f"run_dir: {folder}: {free[first] // MIB} MiB free, {CHECKPOINTS_FREE} checkpoints need "
        findings.add(first, f"{problem}{int(needed) // MIB} MiB", "remove old runs or choose another run_dir")


def _connect(findings: Findings, agents: dict[str, Agent], interface: str | None) -> None:
    """Every host connects to every other on the chosen interface; if all can, gloo adds numbers over all of them."""
    addresses = choose_addresses(findings, interface)
    agents = {name: agents[name] for name in addresses}
    fix = "choose the interface on which the nodes reach each other: GLOO_SOCKET_IFNAME"
    ports = _everywhere(agents, lambda name, agent: agent.ask("listen", address=addresses[name][1]), findings, fix)

    def targets(name: str) -> dict[str, tuple[str, int]]:
        return {other: (addresses[other][1], port) for other, port in ports.items() if other != name}

    failed = _everywhere(
        {name: agents[name] for name in ports},
        lambda name, agent: agent.ask("dial", source=addresses[name][1], targets=targets(name)),
        findings,
        fix,
    )
    for name, failures in failed.items():
        for other, why in failures.items():
            problem = f"cannot connect to {other} ({addresses[other][1]}) on {addresses[name][0]}: {why}"
            findings.add(name, problem, "open all TCP ports between the nodes, or choose another interface")
    if len(agents) > 1 and not findings.problems:
        _add_numbers(findings, agents, addresses)


def choose_addresses(findings: Findings, interface: str | None) -> dict[str, tuple[str, str]]:
    """Interface and address of each host: the asked one, else that for which its own name stands, as gloo chooses."""
    chosen = {}
    for name, facts in findings.facts.items():
        known: dict[str, str] = facts["interfaces"]
        named = interface or next((link for link, address in known.items() if address == facts["own_address"]), None)
        others = ", ".join(f"{link} {address}" for link, address in known.items() if link != "lo") or "none"
        fix = f"set GLOO_SOCKET_IFNAME in .deepspeed_env, or --interface, to one of: {others}"
        if named not in known:
            what = f"no interface {named} with an IPv4 address" if named else "its own name has no address of its own"
            findings.add(name, what, fix)
        elif known[named].startswith("127.") and len(findings.facts) > 1:
            findings.add(name, f"{named} is seen by this host alone, its own name stands for {known[named]}", fix)
        else:
            chosen[name] = (named, known[named])
    return chosen


def _add_numbers(findings: Findings, agents: dict[str, Agent], addresses: dict[str, tuple[str, str]]) -> None:
    names = list(agents)
    port = agents[names[0]].ask("free_port", address=addresses[names[0]][1])

    def add(name: str, agent: Agent) -> float:
        return float(
            agent.ask(
                "gloo",
                seconds=GLOO_SECONDS + 5,
                interface=addresses[name][0],
                rank=names.index(name),
                world_size=len(names),
                address=addresses[names[0]][1],
                port=port,
                limit=GLOO_SECONDS,
            )
        )

    fix = "set GLOO_SOCKET_IFNAME to the interface on which the nodes reach each other, check the firewall"
    for name, total in _everywhere(agents, add, findings, fix).items():
        if total != sum(range(len(names))):
            findings.add(name, f"gloo: a sum over all hosts is {total:g}, not {sum(range(len(names)))}", fix)
