"""Training on the nodes of a rig as a user starts it: over pdsh, node by node without ssh, or rank by rank."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
for needed in (HERE.parent / "engine", HERE.parent / "scorecard", HERE.parent / "faults"):
    if str(needed) not in sys.path:
        sys.path.append(str(needed))

from engine_project import run_values, write_media  # noqa: E402 (found through the lines above)
from rig import Rig  # noqa: E402
from rig_node import INTERFACE, Node  # noqa: E402

SHARED = Path("/mnt/shared")
DEEPSPEED = Path(sys.executable).parent / "deepspeed"
# torch's cache folder, made empty when it is imported.
KEPT_FILES = {"torchinductor_root"}
LIMIT_SECONDS = 150.0
GONE_SECONDS = 20.0
# What every rank needs and DeepSpeed's pdsh launcher does not pass on by itself.
NEEDED = {"GLOO_SOCKET_IFNAME": INTERFACE, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
# A port of its own for each run: the nodes' networks are shared by the runs of a test module.
_ports = count(29500)


class Run:
    """One run over some nodes: the processes started for it from outside, its folder and what it said."""

    def __init__(self, rig: Rig, nodes: Sequence[Node], out: Path, run_dir: Path) -> None:
        self.rig = rig
        self.nodes = list(nodes)
        self.run_dir = run_dir
        self.commands: list[subprocess.Popen[bytes]] = []
        self.log = out

    @property
    def out(self) -> str:
        """Everything it said so far, on all nodes."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @property
    def tail(self) -> str:
        """The end of what it said, without the launchers' own log."""
        return "\n".join(line[:300] for line in self.out.splitlines() if "[INFO]" not in line)[-3000:]

    @property
    def errors(self) -> list[str]:
        """The lines that tell why it ended; pdsh puts the node's name before each."""
        said = (line.partition("error: ") for line in self.out.splitlines())
        return [text for before, mark, text in said if mark and (not before or before.rstrip().endswith(":")) and text]

    def ranks(self) -> dict[int, int]:
        """Process of every rank on every node."""
        return {rank: pid for node in self.nodes if node.is_alive for rank, pid in node.ranks().items()}

    def logged(self) -> int:
        """Number of whole lines in metrics.jsonl."""
        path = self.run_dir / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def until(self, condition: Callable[[], object], seconds: float = LIMIT_SECONDS) -> None:
        """Wait for a condition; AssertionError with what was said if the run ends before, or time does."""
        end = time.monotonic() + seconds
        while not condition():
            ended = any(command.poll() is not None for command in self.commands)
            assert not ended or condition(), f"ended with {self.statuses()}:\n{self.tail}"
            assert time.monotonic() < end, f"nothing for {seconds:g} s:\n{self.tail}"
            time.sleep(0.02)

    def statuses(self) -> list[int | None]:
        """Exit statuses of the commands, None for those that still run."""
        return [command.poll() for command in self.commands]

    def wait(self, seconds: float = LIMIT_SECONDS) -> list[int | None]:
        """Exit statuses once all commands have ended; AssertionError if one outlasts `seconds`."""
        end = time.monotonic() + seconds
        while None in self.statuses():
            assert time.monotonic() < end, f"still running after {seconds:g} s:\n{self.tail}"
            time.sleep(0.02)
        return self.statuses()

    def left(self) -> list[str]:
        """Processes of the run on nodes that live, the head included, and the commands themselves."""
        machines = [self.rig.head, *self.nodes]
        found = [(m.name, command) for m in machines if m.is_alive for command in m.processes().values()]
        waiting = [f"command {place}" for place, status in enumerate(self.statuses()) if status is None]
        return [*(f"{name}: {command[:100]}" for name, command in found), *waiting]

    def gone(self, seconds: float = GONE_SECONDS) -> float:
        """Wait until no process is left on any node; the seconds it took. AssertionError names who stays."""
        began = time.monotonic()
        while left := self.left():
            assert time.monotonic() < began + seconds, f"{left} still there after {seconds:g} s:\n{self.tail}"
            time.sleep(0.05)
        return time.monotonic() - began

    def assert_nothing_left(self) -> None:
        """No process, nothing in any /dev/shm and no file in any /tmp."""
        self.gone()
        for node in (self.rig.head, *self.nodes):
            if node.is_alive:
                assert not node.shared_memory(), (node.name, node.shared_memory())
                files = set(os.listdir(node.path("/tmp"))) - KEPT_FILES - set(self.rig.shared.parts)
                assert not files, (node.name, files)

    def kill(self) -> None:
        """End everything that is left of it."""
        for machine in (self.rig.head, *self.nodes):
            for pid in machine.processes() if machine.is_alive else ():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for command in self.commands:
            command.kill()
            command.wait()


def write_project(rig: Rig) -> None:
    """The tiny project's pictures on the shared folder."""
    if not (rig.shared / "clips.csv").exists():
        write_media(rig.shared)


def write_run(rig: Rig, name: str, *, run_dir: Path | None = None, **changes: dict[str, Any]) -> str:
    """A run file on the shared folder, as the nodes name it; `changes` go into its sections."""
    values = run_values(SHARED, run_dir or SHARED / name)
    for section, change in changes.items():
        values[section] |= change
    (rig.shared / f"{name}.yaml").write_text(json.dumps(values, indent=1))
    return str(SHARED / f"{name}.yaml")


def write_hostfile(rig: Rig, nodes: Sequence[Node], slots: int) -> str:
    """A hostfile of these nodes on the shared folder."""
    (rig.shared / "hostfile").write_text("".join(f"{node.name} slots={slots}\n" for node in nodes))
    return str(SHARED / "hostfile")


def write_exports(rig: Rig, values: dict[str, str]) -> None:
    """The head's `.deepspeed_env`."""
    text = "".join(f"{name}={value}\n" for name, value in values.items())
    rig.head.path("/mnt/home/.deepspeed_env").write_text(text)


def over_pdsh(
    rig: Rig,
    nodes: Sequence[Node],
    run_file: str,
    *overrides: str,
    slots: int = 1,
    environment: dict[str, str] | None = None,
    known: dict[str, str] | None = None,
) -> Run:
    """`deepspeed --hostfile H --launcher pdsh engine/train.py` on the head.

    `environment` goes to the ranks by way of `.deepspeed_env`, `known` to the command itself.
    """
    run = begin(rig, nodes, run_file)
    write_exports(rig, {**NEEDED, **(environment or {})})
    options = [
        "--hostfile",
        write_hostfile(rig, nodes, slots),
        "--launcher",
        "pdsh",
        "--master_port",
        str(next(_ports)),
    ]
    command = [sys.executable, str(DEEPSPEED), *options, "engine/train.py", "--config", run_file, *overrides]
    known = {"DS_ACCELERATOR": "cpu", "PYTHONWARNINGS": "ignore", **(known or {})}
    run.commands.append(rig.head.start(command, environment=known, out=run.log))
    return run


def without_ssh(
    rig: Rig,
    nodes: Sequence[Node],
    run_file: str,
    *overrides: str,
    slots: int = 1,
    environments: dict[str, dict[str, str]] | None = None,
) -> Run:
    """`deepspeed --no_ssh --node_rank k` on every node; `environments` adds to what single nodes get."""
    run = begin(rig, nodes, run_file)
    hostfile, port = write_hostfile(rig, nodes, slots), str(next(_ports))
    for rank, node in enumerate(nodes):
        options = ["--hostfile", hostfile, "--no_ssh", "--node_rank", str(rank)]
        options += ["--master_addr", nodes[0].address, "--master_port", port]
        command = [sys.executable, str(DEEPSPEED), *options, "engine/train.py", "--config", run_file, *overrides]
        known = {**NEEDED, "PYTHONWARNINGS": "ignore", **(environments or {}).get(node.name, {})}
        run.commands.append(node.start(command, environment=known, out=run.log))
    return run


def begin(rig: Rig, nodes: Sequence[Node], run_file: str) -> Run:
    """A run of which nothing has been started yet."""
    name = Path(run_file).stem
    return Run(rig, nodes, rig.shared.parent / f"{name}-{time.monotonic_ns()}.out", rig.shared / name)
