"""The rig itself: nodes that are machines to each other, faults that do what they say, nothing left of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import rig_links
from rig import Rig
from rig_node import Node

pytestmark = [pytest.mark.launch, pytest.mark.multinode, pytest.mark.deep]

HERE = Path(__file__).resolve().parent
BUILD_AND_WAIT = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from rig import Rig
rig = Rig(Path(sys.argv[2]), nodes=1)
print(rig.nodes[0].init, flush=True)
time.sleep(100)
"""


def on(node: Node, *command: str, folder: Path) -> tuple[int, str]:
    """Status and output of a short command on a node."""
    out = folder / f"{time.monotonic_ns()}.out"
    status = node.start(command, environment={}, out=out).wait(30)
    return status, out.read_text()


def reaches(node: Node, other: Node, folder: Path) -> bool:
    dial = "import socket, sys; socket.create_connection((sys.argv[1], 22), timeout=1).recv(1)"
    return on(node, sys.executable, "-S", "-c", dial, other.address, folder=folder)[0] == 0


def test_nodes_have_all_but_one_folder_for_themselves(rig: Rig, tmp_path: Path) -> None:
    first, second = rig.nodes[:2]
    status, said = on(rig.head, "pdsh", "-R", "ssh", "-w", "n0,n1", "hostname", folder=tmp_path)
    assert status == 0 and sorted(said.split("\n")) == ["", "n0: n0", "n1: n1"]
    (rig.shared / "all").write_text("seen")
    for own in ("/tmp", "/dev/shm", "/mnt/local", "/mnt/home"):
        first.path(f"{own}/mine").write_text("")
        assert not second.path(f"{own}/mine").exists()
        first.path(f"{own}/mine").unlink()
    assert second.path("/mnt/shared/all").read_text() == "seen"
    sleeper = first.start(["sleep", "100"], environment={}, out=tmp_path / "out")
    on(second, "pkill", "-f", "sleep", folder=tmp_path)
    assert sleeper.poll() is None and not second.processes()
    assert [os.kill(pid, signal.SIGKILL) for pid in first.with_command("sleep")] == [None]
    sleeper.wait(10)


def test_links_fail_as_asked(tmp_path: Path) -> None:
    with Rig(tmp_path / "own", nodes=2) as rig:
        first, second = rig.nodes
        assert reaches(first, second, tmp_path)
        rig_links.cut(rig, second)
        assert not reaches(first, second, tmp_path) and not reaches(second, first, tmp_path)
        rig_links.mend(rig, second)
        assert reaches(first, second, tmp_path)
        rig_links.slow(rig, second, "1mbit")
        assert "rate 1Mbit" in on(second, "tc", "qdisc", "show", "dev", "eth0", folder=tmp_path)[1]
        assert reaches(first, second, tmp_path)
        rig_links.deafen(second, first)
        assert not reaches(second, first, tmp_path), "the answer is not heard"
        assert reaches(second, rig.head, tmp_path)
        second.lose()
        assert not second.is_alive and not reaches(rig.head, second, tmp_path) and reaches(rig.head, first, tmp_path)


def test_nothing_is_left_of_a_killed_rig(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BUILD_AND_WAIT, str(HERE), str(tmp_path / "killed")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as builder:
        assert builder.stdout is not None
        node = int(builder.stdout.readline())
        assert str(tmp_path / "killed") in Path(f"/proc/{node}/cmdline").read_text()
        builder.kill()
    end = time.monotonic() + 10
    while left := [path for path in Path("/proc").glob("[0-9]*/cmdline") if f"{tmp_path}/killed" in command_of(path)]:
        assert time.monotonic() < end, left
        time.sleep(0.05)


def command_of(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
