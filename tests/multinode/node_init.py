"""First process of a node of the rig: gives it folders of its own, starts sshd, then collects ended processes.

python node_init.py <JSON: name, folder, shared, keep>. It runs in namespaces of its own; when it dies, the node is gone
with everything on it. `folder` holds what the rig prepared, `keep` names paths that must stay visible.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

BIND, RECURSIVE, PRIVATE = 4096, 16384, 1 << 18
HOME = Path("/mnt/home")
OWN_FOLDERS = ("/mnt", "/tmp", "/run", "/dev/shm")
START_SECONDS = 20.0
_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str = "", flags: int = 0) -> None:
    """mount(2); OSError names the target."""
    if _libc.mount(source.encode(), target.encode(), kind.encode() or None, flags, None):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def build(name: str, folder: Path, shared: Path, keep: list[str]) -> None:
    """Own /tmp, /dev/shm, /run, home and host name; `shared` is the one folder that all nodes have in common."""
    # A folder before what is in it, which then is there already.
    kept = {path: os.open(path, os.O_PATH) for path in sorted({str(folder), str(shared), *keep})}
    mount("none", "/", flags=RECURSIVE | PRIVATE)
    for own in OWN_FOLDERS:
        mount("tmpfs", own, "tmpfs")
    mount("proc", "/proc", "proc")
    for path, descriptor in kept.items():
        if not os.path.exists(path):
            os.makedirs(path)
            mount(f"/proc/self/fd/{descriptor}", path, flags=BIND | RECURSIVE)
    for made in ("/mnt/shared", "/mnt/local", "/run/sshd", str(HOME)):
        os.makedirs(made)
    mount(f"/proc/self/fd/{kept[str(shared)]}", "/mnt/shared", flags=BIND)
    for file in ("hosts", "passwd", "shadow"):
        mount(str(folder / file), f"/etc/{file}", flags=BIND)
    shutil.copytree(folder / "ssh", HOME / ".ssh")
    os.chmod(HOME / ".ssh/id_ed25519", 0o600)
    socket.sethostname(name)


def serve(folder: Path) -> None:
    """Start sshd on port 22 and wait until it answers."""
    shutil.copy(folder / "host_key", "/run/host_key")
    os.chmod("/run/host_key", 0o600)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["/usr/sbin/sshd", "-f", str(folder / "sshd_config"), "-E", "/run/sshd.log"], check=True)
    end = time.monotonic() + START_SECONDS
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", 22), timeout=1):
            return
        if time.monotonic() > end:
            raise SystemExit(f"sshd does not answer: {Path('/run/sshd.log').read_text()}")
        time.sleep(0.02)


def main() -> None:
    """Build the node, say that it is ready, and live on."""
    spec = json.loads(sys.argv[1])
    build(spec["name"], Path(spec["folder"]), Path(spec["shared"]), spec["keep"])
    serve(Path(spec["folder"]))
    print("ready", flush=True)
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            time.sleep(0.1)


if __name__ == "__main__":
    main()
