"""The process that watches a node, over stub ranks: what it says, whom it blames, and that all are gone afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.watchdog.heartbeat import Board
from engine.watchdog.phases import DEFAULTS

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
Script = list[list[Any]]

# Ranks come this far before their own lines begin; each has had its first step.
BEGIN: Script = [["enter", "data", 1], ["enter", "data", 2]]
REST: Script = [["enter", "forward", 2], ["sleep", 60]]
WAIT: Script = [["enter", "backward", 2], ["wait", 60]]
DONE: Script = [["leave", "FINISHED", 0, ""]]


class Node:
    """A watchdog with its stub ranks, of a run of `world_size` ranks on several nodes."""

    def __init__(self, folder: Path, name: str, scripts: dict[int, Script], *, world_size: int) -> None:
        waiting = folder / "torch/distributed/waiting.py"
        waiting.parent.mkdir(parents=True, exist_ok=True)
        waiting.write_text("import time\ndef wait(seconds):\n    time.sleep(seconds)\n")
        self.name = name
        self.folder = folder
        self.board = Board.create(len(scripts))
        stub = [sys.executable, str(HERE / "stub_rank.py"), str(os.getpid()), str(self.board.descriptor)]
        stub.append(str(len(scripts)))
        self.ranks = [
            subprocess.Popen(
                [*stub, str(slot), str(waiting), json.dumps(BEGIN + script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            for slot, script in enumerate(scripts.values())
        ]
        described = []
        for number, rank in zip(scripts, self.ranks, strict=True):
            assert rank.stdout is not None
            described.append({**json.loads(rank.stdout.readline()), "rank": number})
        self.task = {
            "ranks": described,
            "world_size": world_size,
            "host": name,
            "nodes": 1,
            "run_dir": str(folder),
            "limits": {**dict.fromkeys(DEFAULTS, 1.0), "contact": 3.5, "data": 1.5, "save": 4.0},
            "token": "t",
            "address": "127.0.0.1",
            "server": None,
        }

    def watch(self, **changes: Any) -> None:
        """Start the watchdog."""
        descriptor = self.board.descriptor
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-m", "engine.watchdog.node", str(descriptor)],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(descriptor,),
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({**self.task, **changes}).encode() + b"\n")
        self.process.stdin.flush()
        while not self.board.watchdog[0]:
            assert self.process.poll() is None
            time.sleep(0.005)

    def go(self) -> None:
        """Let the ranks begin."""
        for rank in self.ranks:
            assert rank.stdin is not None
            rank.stdin.close()

    def end(self) -> str:
        """What the watchdog said; it and its ranks are gone."""
        assert self.process.stderr is not None
        self.process.wait(30)
        said = self.process.stderr.read().decode()
        for rank in self.ranks:
            rank.wait(0.5)
        return said

    def clean(self) -> None:
        for process in [*self.ranks, *([self.process] if hasattr(self, "process") else [])]:
            process.kill()
            process.wait()


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[Node]]:
    made: list[Node] = []
    yield made
    for node in made:
        node.clean()


def alone(nodes: list[Node], folder: Path, *scripts: Script) -> str:
    """Output of the watchdog of one node with these ranks."""
    nodes.append(Node(folder, "here", dict(enumerate(scripts)), world_size=len(scripts)))
    nodes[0].watch()
    nodes[0].go()
    return nodes[0].end()


def together(nodes: list[Node], folder: Path, first: Script, second: Script) -> None:
    """Two nodes of a rank each, watched."""
    nodes += [
        Node(folder, name, {rank: script}, world_size=2)
        for rank, (name, script) in enumerate((("first", first), ("second", second)))
    ]
    nodes[0].watch(nodes=2)
    nodes[1].watch(nodes=2, server={"host": "first", "port": nodes[0].board.watchdog[1]})
    for node in nodes:
        node.go()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ([["signal", "SIGKILL"]], "ended by SIGKILL"),
        ([["signal", "SIGSEGV"]], "ended by SIGSEGV"),
        ([["exit", 0]], "left with status 0 in the middle of the run"),
        ([["exit", 1]], "left with status 1 in the middle of the run"),
    ],
)
def test_a_rank_gone_without_a_word_is_named(nodes: list[Node], tmp_path: Path, script: Script, said: str) -> None:
    # The other one has noticed, and leaves it to the watchdog to tell.
    other = [["sleep", 0.5], ["leave", "LOST", 4, "connection closed"]]
    line = alone(nodes, tmp_path, other, [["enter", "forward", 2], *script])
    assert (
        line.startswith(f"error: rank 1 of 2 on here: step 2, forward: {said}, silent for ") and line.count("\n") == 1
    )
    failure = json.loads((tmp_path / "failure.json").read_text())
    assert failure["cause"] == line.removeprefix("error: ").strip() and failure["ranks"][0]["rank"] == 1


@pytest.mark.parametrize(
    ("script", "said"),
    [
        pytest.param([["signal", "SIGSTOP"]], "stopped by a signal", marks=pytest.mark.deep),
        pytest.param([["busy"]], "stub_rank.py", marks=pytest.mark.deep),
        ([["gil"]], "stub_rank.py"),
    ],
)
def test_the_rank_that_hangs_is_blamed_and_all_are_ended(
    nodes: list[Node], tmp_path: Path, script: Script, said: str
) -> None:
    """Rank 0 waits in a collective and is as silent; it has even fewer phases behind it than the one that hangs."""
    line = alone(nodes, tmp_path, WAIT, [["enter", "forward", 2], ["enter", "backward", 2], *script])
    assert line.startswith("error: rank 1 of 2 on here: step 2, backward: silent for ") and said in line
    assert line.count("\n") == 1 and "(limit 1 s)" in line
    assert all(rank.returncode == -signal.SIGKILL for rank in nodes[0].ranks)
    stacks = [entry["stack"] for entry in json.loads((tmp_path / "failure.json").read_text())["ranks"]]
    assert any("torch/distributed/waiting.py" in frame for frame in stacks[0])


@pytest.mark.deep
def test_of_ranks_that_all_wait_the_one_behind_is_blamed(nodes: list[Node], tmp_path: Path) -> None:
    line = alone(nodes, tmp_path, [["enter", "forward", 2], *WAIT], WAIT)
    assert line.startswith("error: rank 1 of 2 on here") and "waiting for other ranks in" in line


def test_a_failure_that_was_told_is_not_told_again(nodes: list[Node], tmp_path: Path) -> None:
    told = [["enter", "forward", 2], ["leave", "TOLD", 1, "ValueError: bad"]]
    assert alone(nodes, tmp_path, [["sleep", 0.3], ["leave", "LOST", 1, ""]], told) == ""
    assert "ValueError: bad" in json.loads((tmp_path / "failure.json").read_text())["cause"]


def test_a_failure_at_the_start_leaves_the_run_folder_alone(nodes: list[Node], tmp_path: Path) -> None:
    assert alone(nodes, tmp_path, [["enter", "start", 0], ["leave", "TOLD", 3, "in use"]]) == ""
    assert not (tmp_path / "failure.json").exists()


@pytest.mark.deep
def test_a_connection_nobody_explains_is_told(nodes: list[Node], tmp_path: Path) -> None:
    line = alone(nodes, tmp_path, [["leave", "LOST", 4, "timed out"]], DONE)
    assert line == "error: rank 0 of 2 on here: step 2, data: lost contact with another rank: timed out\n"


def test_ranks_that_finish_leave_nothing(nodes: list[Node], tmp_path: Path) -> None:
    slow = [[name, *rest] for step in range(3, 7) for name, *rest in (["enter", "forward", step], ["sleep", 0.6])]
    assert alone(nodes, tmp_path, slow + DONE, slow + DONE) == ""
    assert not (tmp_path / "failure.json").exists() and nodes[0].process.returncode == 0


def test_who_waits_for_a_rank_with_a_longer_limit_is_not_blamed(nodes: list[Node], tmp_path: Path) -> None:
    """As ranks wait for the one that writes a checkpoint, or evaluates, though they are in another phase."""
    waiting = [["enter", "data", 3], ["wait", 3.2], *DONE]
    assert alone(nodes, tmp_path, [["enter", "save", 2], ["sleep", 3], *DONE], waiting) == ""


@pytest.mark.deep
def test_a_run_suspended_as_a_whole_goes_on(nodes: list[Node], tmp_path: Path) -> None:
    nodes.append(Node(tmp_path, "here", {0: [["sleep", 0.5], *DONE]}, world_size=1))
    node = nodes[0]
    node.watch()
    node.go()
    everyone = [node.process, *node.ranks]
    for process in everyone:
        process.send_signal(signal.SIGSTOP)
    time.sleep(6)
    node.process.send_signal(signal.SIGCONT)
    time.sleep(0.3)
    node.ranks[0].send_signal(signal.SIGCONT)
    assert node.end() == ""


def test_what_happens_on_one_node_is_told_once_and_ends_the_other(nodes: list[Node], tmp_path: Path) -> None:
    together(nodes, tmp_path, WAIT, [["enter", "forward", 2], ["signal", "SIGKILL"]])
    assert nodes[1].end() == ""
    nodes[0].ranks[0].kill()
    assert nodes[0].end().startswith("error: rank 1 of 2 on second: step 2, forward: ended by SIGKILL")


@pytest.mark.parametrize("hanging", [pytest.param(0, marks=pytest.mark.deep), 1])
def test_a_hang_is_judged_over_all_nodes(nodes: list[Node], tmp_path: Path, hanging: int) -> None:
    scripts = [WAIT, [["enter", "forward", 2], ["signal", "SIGSTOP"]]]
    together(nodes, tmp_path, *(scripts if hanging else scripts[::-1]))
    said = [node.end() for node in nodes]
    name = ("first", "second")[hanging]
    assert said[0].startswith(f"error: rank {hanging} of 2 on {name}: step 2, forward: silent for") and said[1] == ""
    assert len(json.loads((tmp_path / "failure.json").read_text())["ranks"]) == 2


@pytest.mark.parametrize(
    ("lost", "said"),
    [(signal.SIGKILL, "its watchdog is gone"), pytest.param(signal.SIGSTOP, "silent for", marks=pytest.mark.deep)],
)
def test_a_node_that_falls_silent_is_named(nodes: list[Node], tmp_path: Path, lost: signal.Signals, said: str) -> None:
    # A machine that died closes its connections in time; a cut cable does not.
    closed = [["sleep", 0.5], ["leave", "LOST", 4, "connection closed"]]
    silent = [["sleep", 0.5], ["enter", "save", 2]] * 20
    together(nodes, tmp_path, closed if lost == signal.SIGKILL else silent, REST)
    for process in (nodes[1].process, nodes[1].ranks[0]):
        process.send_signal(lost)
    line = nodes[0].end()
    assert line.startswith(f"error: node second: {said}") and line.count("\n") == 1


def test_nodes_that_finish_part_in_peace(nodes: list[Node], tmp_path: Path) -> None:
    together(nodes, tmp_path, DONE, [["sleep", 0.8], *DONE])
    assert [node.end() for node in nodes] == ["", ""]


def test_a_stranger_is_not_listened_to(nodes: list[Node], tmp_path: Path) -> None:
    import socket

    nodes.append(Node(tmp_path, "first", {0: [["sleep", 1.2], *DONE]}, world_size=2))
    nodes[0].watch(nodes=2)
    port = nodes[0].board.watchdog[1]
    strangers = [socket.create_connection(("127.0.0.1", port)) for _ in range(5)]
    strangers[0].sendall(b'{"token": "x", "host": "y"}\n{"end": 0}\n')
    strangers[1].sendall(b"GET / HTTP/1.1\r\n\r\n")
    strangers[2].sendall(b"[1]\n\xff\n")
    strangers[3].sendall(b'{"end": 0}\n')
    nodes[0].go()
    assert nodes[0].end() == ""
    assert nodes[0].ranks[0].returncode == 0
    for stranger in strangers:
        stranger.close()
