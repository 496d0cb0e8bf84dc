"""`s4d doctor --hostfile` on the head: hosts that can train together, a line with its fix for each that cannot."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rig_links
import rig_runs
from rig import Rig
from rig_node import ROOT, Node

pytestmark = [pytest.mark.launch, pytest.mark.multinode, pytest.mark.deep]

S4D = str(Path(sys.executable).parent / "s4d")
LIMIT = 90.0


@pytest.fixture(autouse=True)
def exports(rig: Rig) -> Iterator[None]:
    rig_runs.write_exports(rig, rig_runs.NEEDED)
    yield


def doctor(rig: Rig, *options: str, hosts: str = "n0 slots=1\nn1 slots=1\n") -> tuple[int, dict[str, Any]]:
    """Exit status and findings."""
    (rig.shared / "hosts-to-check").write_text(hosts)
    out = rig.shared.parent / f"doctor-{time.monotonic_ns()}.out"
    command = [S4D, "doctor", "--hostfile", "/mnt/shared/hosts-to-check", "--json", *options]
    status = rig.head.start(command, environment={}, out=out).wait(LIMIT)
    text = out.read_text()
    assert text.startswith("{"), text
    return status, json.loads(text)


def told(findings: dict[str, Any]) -> list[str]:
    return [f"{found['host']}: {found['problem']}" for found in findings["problems"]]


def test_hosts_that_can_train_together(rig: Rig) -> None:
    status, findings = doctor(rig, "--run-dir", "/mnt/shared/run", hosts="n0 slots=1\nn1 slots=1\nn2 slots=1\n")
    assert (status, findings["problems"]) == (0, [])
    assert [host["interfaces"]["eth0"] for host in findings["hosts"]] == [node.address for node in rig.nodes]
    assert len({host["versions"]["the engine's sources"] for host in findings["hosts"]}) == 1
    assert all(abs(host["clock_offset"]) < 5 for host in findings["hosts"])
    assert not list(rig.shared.glob(".s4d-doctor-*")), "tokens stay behind"


def test_each_fault_is_one_line_with_its_fix(rig: Rig) -> None:
    """At once: a name nobody knows, a folder that is not shared, more slots than cores, exports that are missing."""
    rig_runs.write_exports(rig, {"DS_ACCELERATOR": "cpu"})
    hosts = "n0 slots=1\nn1 slots=999\nnowhere slots=1\n"
    status, findings = doctor(rig, "--run-dir", "/mnt/local/run", "--interface", "eth0", hosts=hosts)
    lines = told(findings)
    assert status == 1 and len(lines) == 5, lines
    for part in (
        "nowhere: ssh: Could not resolve hostname",
        "n1: slots=999 but ",
        "n1: run_dir: /mnt/local is not shared",
        "all hosts: GLOO_SOCKET_IFNAME does not reach",
        "all hosts: OMP_NUM_THREADS does not reach",
    ):
        assert any(line.startswith(part) for line in lines), (part, lines)
    assert all(found["fix"] for found in findings["problems"])


def test_wrong_interface(rig: Rig) -> None:
    status, findings = doctor(rig, "--interface", "eth9")
    assert status == 1
    assert told(findings) == [f"{name}: no interface eth9 with an IPv4 address" for name in ("n0", "n1")]
    assert "eth0 10.213.0.11" in findings["problems"][0]["fix"]


def test_ssh_that_would_wait_for_a_lost_host(rig: Rig) -> None:
    config = rig.head.path("/mnt/home/.ssh/config")
    text = config.read_text()
    config.write_text("\n".join(line for line in text.splitlines() if "ServerAlive" not in line) + "\n")
    try:
        status, findings = doctor(rig)
    finally:
        config.write_text(text)
    assert status == 1 and [line.partition(":")[0] for line in told(findings)] == ["all hosts"], findings
    assert "ServerAliveInterval" in findings["problems"][0]["fix"]


def test_another_version_and_an_old_lock(rig: Rig, tmp_path: Path) -> None:
    node = rig.nodes[1]
    (rig.shared / "other.py").write_text((ROOT / "engine/ema.py").read_text() + "\n")
    lock = node.path("/mnt/home/.cache/torch_extensions/py311_cpu/some_op/lock")
    lock.parent.mkdir(parents=True)
    lock.touch()
    make_old(lock)
    place = str(ROOT / "engine/ema.py")
    assert run_on(node, ["mount", "--bind", "/mnt/shared/other.py", place], tmp_path) == 0
    try:
        status, findings = doctor(rig)
    finally:
        assert run_on(node, ["umount", place], tmp_path) == 0
        shutil.rmtree(node.path("/mnt/home/.cache"))
    lines = told(findings)
    assert status == 1 and len(lines) == 2, lines
    assert lines[0].startswith("n1: the engine's sources: ") and "/some_op/lock: a lock of" in lines[1]


def test_hosts_that_do_not_hear_each_other(tmp_path: Path) -> None:
    """One pair deaf in one direction, one host without a cable."""
    with Rig(tmp_path / "own", nodes=3) as rig:
        rig_runs.write_exports(rig, rig_runs.NEEDED)
        first, second, third = rig.nodes
        rig_links.deafen(second, first)
        rig_links.cut(rig, third)
        status, findings = doctor(rig, hosts="n0 slots=1\nn1 slots=1\nn2 slots=1\n")
        lines = told(findings)
        assert status == 1 and len(lines) == 3, lines
        assert lines[0].startswith("n2: ssh: connect to host n2 port 22: ")
        assert [line.partition(" (")[0] for line in lines[1:]] == [
            "n0: cannot connect to n1",
            "n1: cannot connect to n0",
        ]
        assert [found["fix"].startswith("open all TCP ports") for found in findings["problems"]] == [False, True, True]


def run_on(node: Node, command: list[str], folder: Path) -> int:
    return node.start(command, environment={}, out=folder / "said").wait(20)


def make_old(path: Path) -> None:
    """Make a file an hour older."""
    old = time.time() - 3600
    os.utime(path, (old, old))
