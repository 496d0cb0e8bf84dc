"""Conversations with hosts over ssh, for `s4d doctor --hostfile`."""

from __future__ import annotations

import json
import os
import select
import shlex
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CONNECT_SECONDS = 5
ANSWER_SECONDS = 20.0
# What ssh says last, and what to do about it; the first that fits.
SSH_FAILURES = {
    "Could not resolve": "add the name to DNS or to /etc/hosts of every node",
    "Permission denied": "set up ssh without a password: ssh-copy-id",
    "Host key verification failed": "connect once by hand and accept the host's key",
    "Connection refused": "start sshd there, or name its port with --ssh-port",
    "timed out": "switch the host on, check cable and firewall, or take it out of the hostfile",
    "No route to host": "switch the host on, check cable and firewall, or take it out of the hostfile",
    "No such file or directory": "install the project and its environment at the same path on every node",
    "No module named": "install the same version of the project on every node",
}
OTHER_FAILURE = "log in with ssh and try the same there"


def notices_a_lost_host(host: str) -> bool:
    """Whether a connection of ssh, as pdsh makes it from here, ends when the other side is gone without a word."""
    if "ServerAliveInterval" in os.environ.get("PDSH_SSH_ARGS_APPEND", ""):
        return True
    told = subprocess.run(["ssh", "-G", "--", host], capture_output=True, text=True, check=False).stdout
    return not any(line == "serveraliveinterval 0" for line in told.splitlines())


class UnansweredError(Exception):
    """A host did not do what it was asked; the text says why."""

    @property
    def fix(self) -> str:
        """What to do about a failed connection."""
        return next((fix for part, fix in SSH_FAILURES.items() if part in str(self)), OTHER_FAILURE)


class Agent:
    """`doctor_agent` on one host, at the other end of an ssh connection."""

    def __init__(self, host: str, ssh_port: int | None) -> None:
        remote = f"cd {shlex.quote(str(ROOT))} && exec {shlex.quote(sys.executable)} -u -m s4d.cli.doctor_agent"
        options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_SECONDS}"]
        options += ["-p", str(ssh_port)] if ssh_port else []
        self._process = subprocess.Popen(
            ["ssh", *options, "--", host, remote],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C"},
        )

    def ask(self, action: str, *, seconds: float = ANSWER_SECONDS, **arguments: Any) -> Any:
        """The agent's answer; UnansweredError if it fails, dies or takes longer than `seconds`."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        with suppress(BrokenPipeError):
            stdin.write(json.dumps({"do": action, **arguments}).encode() + b"\n")
            stdin.flush()
        text, end = b"", time.monotonic() + seconds
        while not text.endswith(b"\n"):
            if not select.select([stdout], [], [], max(end - time.monotonic(), 0))[0]:
                raise UnansweredError(f"no answer in {seconds:g} s")
            piece = os.read(stdout.fileno(), 1 << 16)
            if not piece:
                raise UnansweredError(self._last_words())
            text += piece
        answer = json.loads(text)
        if "error" in answer:
            raise UnansweredError(str(answer["error"]))
        return answer["ok"]

    def _last_words(self) -> str:
        with suppress(BrokenPipeError):
            _, said = self._process.communicate()
        lines = [line for line in said.decode(errors="replace").splitlines() if line.strip()]
        return lines[-1].strip() if lines else f"ended with status {self._process.returncode}"

    def close(self) -> None:
        """Hang up."""
        self._process.kill()
        with suppress(BrokenPipeError, ValueError):
            self._process.communicate()
