"""One node of the rig, seen from outside: its processes, files and faults."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# Everything that the rig starts dies with the process that built it, even when that is killed.
MORTAL = ("setpriv", "--pdeathsig", "KILL")
NAMESPACES = ("--net", "--uts", "--ipc", "--mount", "--pid")
INTERFACE = "eth0"
PLAIN_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Node:
    """Namespaces with a first process, sshd and an interface `eth0`."""

    def __init__(self, name: str, address: str, folder: Path, shared: Path) -> None:
        self.name = name
        self.address = address
        # Where a checkout or an interpreter lies below a folder that the node has for itself.
        keep = [str(ROOT), sys.prefix, sys.base_prefix]
        spec = json.dumps({"name": name, "folder": str(folder), "shared": str(shared), "keep": keep})
        command = [sys.executable, "-S", "-E", str(HERE / "node_init.py"), spec]
        self._holder = subprocess.Popen(
            [*MORTAL, "unshare", *NAMESPACES, "--fork", "--kill-child", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def await_ready(self) -> None:
        """Wait for sshd; AssertionError with the reason if the node cannot be built."""
        assert self._holder.stdout is not None and self._holder.stderr is not None
        assert self._holder.stdout.readline() == "ready\n", self._holder.stderr.read()
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text().split()
        self.init = int(children[0])
        self._space = os.readlink(f"/proc/{self.init}/ns/pid")

    def network(self, *command: str) -> None:
        """Run a command of this machine in the node's network."""
        subprocess.run(["nsenter", "-t", str(self.init), "--net", *command], check=True, capture_output=True, text=True)

    def start(self, command: Sequence[str], *, environment: dict[str, str], out: Path) -> subprocess.Popen[bytes]:
        """Start a command on the node, in the checkout, with this environment alone; output goes to a file."""
        known = {"HOME": "/mnt/home", "PATH": PLAIN_PATH, **environment}
        entered = ["nsenter", "-t", str(self.init), *NAMESPACES, "env", "-i", "-C", str(ROOT)]
        with out.open("ab") as stream:
            return subprocess.Popen(
                [*MORTAL, *entered, *(f"{name}={value}" for name, value in known.items()), *command],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def path(self, inside: str) -> Path:
        """A path of the node, as it is reached from outside."""
        return Path(f"/proc/{self.init}/root{inside}")

    @property
    def is_alive(self) -> bool:
        """False once the node was lost."""
        return self._holder.poll() is None

    def processes(self) -> dict[int, str]:
        """Living processes and their command lines, those of sshd and the first process left out."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if os.readlink(entry / "ns/pid") != self._space:
                    continue
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                if command and state not in "ZX" and not command.startswith("sshd") and int(entry.name) != self.init:
                    found[int(entry.name)] = command
        return found

    def with_command(self, part: str) -> list[int]:
        """Processes whose command line holds `part`."""
        return [pid for pid, command in self.processes().items() if part in command]

    def ranks(self) -> dict[int, int]:
        """Process of each rank that trains on this node."""
        found = {}
        for pid in self.with_command("engine/train.py"):
            with suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                rank = next((entry[5:] for entry in environment if entry.startswith(b"RANK=")), None)
                if rank is not None and b"engine/train.py" in command[1:4]:
                    found[int(rank)] = pid
        return found

    def launcher(self) -> int:
        """Process of DeepSpeed's launcher on this node."""
        pids = [pid for pid in self.with_command("-m deepspeed.launcher.launch") if self._is_python(pid)]
        assert pids, f"no launcher on {self.name}: {self.processes()}"
        return pids[0]

    def _is_python(self, pid: int) -> bool:
        with suppress(OSError):
            return b"python" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
        return False

    def shared_memory(self) -> list[str]:
        """What lies in the node's /dev/shm."""
        return sorted(os.listdir(self.path("/dev/shm")))

    def lose(self) -> None:
        """Kill the node at once, as a power failure would."""
        with suppress(ProcessLookupError):
            os.kill(self.init, signal.SIGKILL)
        self._holder.wait(10)

    def close(self) -> None:
        """End the node."""
        self._holder.kill()
        self._holder.communicate()
