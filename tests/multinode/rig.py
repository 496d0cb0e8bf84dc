"""Several machines on one: a head and nodes as network namespaces on a bridge, each with sshd and folders of its own.

    with Rig(folder, nodes=2) as rig:      # about a second
        rig.nodes[0], rig.head             # rig_node.Node
        rig.shared                         # this machine's view of /mnt/shared on all nodes; /mnt/local is not shared

All processes die with the one that built the rig, and namespaces, mounts and interfaces vanish with them: whatever ends
a test, nothing has to be cleaned up. Names and addresses exist only inside.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from rig_node import INTERFACE, MORTAL, Node

NETWORK = "10.213.0"
TOOLS = ("ip", "iptables", "tc", "unshare", "nsenter", "setpriv", "ssh", "ssh-keygen", "pdsh", "hostname", "pkill")
SSHD = Path("/usr/sbin/sshd")
SSHD_CONFIG = """\
Port 22
HostKey /run/host_key
PermitRootLogin yes
PasswordAuthentication no
StrictModes no
UsePAM no
UseDNS no
PidFile none
MaxStartups 100
"""
HUB = "ip link add hub type bridge && ip link set hub up && echo ready && exec sleep infinity"
SSH_CONFIG = """\
Host *
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
  ServerAliveInterval 3
  ServerAliveCountMax 2
"""


def why_impossible() -> str:
    """Why this machine cannot hold a rig; empty if it can."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    missing += [] if SSHD.exists() else ["sshd"]
    if missing:
        return f"not installed: {', '.join(missing)}"
    trial = "mount -t tmpfs none /mnt && ip link add try0 type veth peer name try1 && ip link add try2 type bridge"
    command = ["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "sh", "-c", trial]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"namespaces are not permitted here: {done.stderr.strip()}" if done.returncode else ""


class Rig:
    """A head and nodes `n0`, `n1`, ...; close it, or leave that to the end of this process."""

    def __init__(self, folder: Path, *, nodes: int) -> None:
        self.shared = folder / "shared"
        self.shared.mkdir(parents=True)
        names = ["head", *(f"n{number}" for number in range(nodes))]
        addresses = {name: f"{NETWORK}.{10 + place}" for place, name in enumerate(names)}
        _prepare(folder / "files", addresses)
        self._hub = subprocess.Popen(
            [*MORTAL, "unshare", "--net", "sh", "-c", HUB],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._hub.stdout is not None and self._hub.stdout.readline() == "ready\n"
        machines = [Node(name, address, folder / "files", self.shared) for name, address in addresses.items()]
        self.head, self.nodes = machines[0], machines[1:]
        try:
            for machine in machines:
                machine.await_ready()
                self._connect(machine)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all machines."""
        for machine in (self.head, *self.nodes):
            machine.close()
        self._hub.kill()
        self._hub.communicate()

    def hub(self, *command: str) -> None:
        """Run a command in the network of the bridge."""
        subprocess.run(["nsenter", "-t", str(self._hub.pid), "--net", *command], check=True, capture_output=True)

    def _connect(self, node: Node) -> None:
        ends = ["type", "veth", "peer", "name", INTERFACE, "netns", str(node.init)]
        self.hub("ip", "link", "add", cable(node), *ends)
        self.hub("ip", "link", "set", cable(node), "master", "hub", "up")
        node.network("ip", "address", "add", f"{node.address}/24", "dev", INTERFACE)
        node.network("ip", "link", "set", INTERFACE, "up")


def cable(node: Node) -> str:
    """The bridge's end of a node's cable."""
    return f"to-{node.name}"


def _prepare(folder: Path, addresses: dict[str, str]) -> None:
    """Files that the nodes copy or mount: host names, users, keys."""
    (folder / "ssh").mkdir(parents=True)
    lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in addresses.items())]
    (folder / "hosts").write_text("\n".join(lines) + "\n")
    users = Path("/etc/passwd").read_text().splitlines()
    others = [line for line in users if not line.startswith("root:")]
    (folder / "passwd").write_text("\n".join(["root:x:0:0:root:/mnt/home:/bin/bash", *others]) + "\n")
    (folder / "shadow").write_text("root:*:20000:0:99999:7:::\nsshd:!:20000::::::\n")
    for key in (folder / "host_key", folder / "ssh/id_ed25519"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    shutil.copy(folder / "ssh/id_ed25519.pub", folder / "ssh/authorized_keys")
    (folder / "ssh/config").write_text(SSH_CONFIG)
    (folder / "sshd_config").write_text(SSHD_CONFIG)
