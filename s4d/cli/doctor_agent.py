"""What `s4d doctor --hostfile` starts on every host over ssh: answers JSON requests, one a line, until its input ends.

Imports nothing heavy. A request is `{"do": name, ...}`, the answer `{"ok": value}` or `{"error": one line}`.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

SIOCGIFADDR = 0x8915
DIAL_SECONDS = 5.0
SEEN_SECONDS = 5.0
STALE_SECONDS = 600.0
_listener: list[socket.socket] = []


def facts() -> dict[str, Any]:
    """Versions, cores, devices, interfaces, clock and locks of this host."""
    from engine.sources import versions

    return {
        "name": socket.gethostname(),
        "versions": versions(),
        "cores": len(os.sched_getaffinity(0)),
        "devices": len(list(Path("/dev").glob("nvidia[0-9]*"))),
        "interfaces": interfaces(),
        "own_address": _own_address(),
        "locks": stale_locks(),
    }


def clock() -> float:
    """Seconds since 1970 by this host's clock."""
    return time.time()


def interfaces() -> dict[str, str]:
    """IPv4 address of each interface that has one."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with suppress(OSError):
                answer = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                found[name] = socket.inet_ntoa(answer[20:24])
    return found


def _own_address() -> str | None:
    with suppress(OSError):
        return socket.gethostbyname(socket.gethostname())
    return None


def stale_locks() -> list[str]:
    """Locks of compiled torch extensions that nobody has touched for long; a start would wait for them without end."""
    folder = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache/torch_extensions")
    limit = time.time() - STALE_SECONDS
    locks = [*folder.glob("*/lock"), *folder.glob("*/*/lock")]
    return sorted(str(lock) for lock in locks if lock.stat().st_mtime < limit)


def place(run_dir: str) -> dict[str, Any]:
    """Where below or above `run_dir` something exists already, and the bytes of its newest checkpoint."""
    folder = Path(run_dir)
    checkpoints = sorted(folder.glob("checkpoints/step-*"))
    size = sum(path.stat().st_size for path in checkpoints[-1].rglob("*") if path.is_file()) if checkpoints else None
    while not folder.is_dir():
        folder = folder.parent
    return {"folder": str(folder), "checkpoint_bytes": size}


def write_token(folder: str, name: str) -> int:
    """Write a file as checkpoints are written: aside, flushed, renamed; returns the free bytes there."""
    aside, final = Path(folder) / f"{name}.aside", Path(folder) / name
    with aside.open("w", encoding="utf-8") as stream:
        stream.write(name)
        stream.flush()
        os.fsync(stream.fileno())
    aside.rename(final)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return shutil.disk_usage(folder).free


def unseen_tokens(folder: str, names: list[str]) -> list[str]:
    """Which of these tokens this host cannot read, even after a while."""
    end = time.monotonic() + SEEN_SECONDS
    while True:
        unseen = [name for name in names if not _reads(Path(folder) / name)]
        if not unseen or time.monotonic() > end:
            return unseen
        time.sleep(0.1)


def _reads(token: Path) -> bool:
    with suppress(OSError):
        return token.read_text(encoding="utf-8") == token.name
    return False


def remove_token(folder: str, name: str) -> None:
    """Remove a token of this host."""
    for left in (name, f"{name}.aside"):
        (Path(folder) / left).unlink(missing_ok=True)


def listen(address: str) -> int:
    """Accept connections on an address of this host and say its name to each; returns the port."""
    server = socket.create_server((address, 0))
    _listener.append(server)

    def greet() -> None:
        while True:
            connection, _ = server.accept()
            with suppress(OSError), connection:
                connection.sendall(socket.gethostname().encode() + b"\n")

    threading.Thread(target=greet, daemon=True).start()
    return int(server.getsockname()[1])


def dial(source: str, targets: dict[str, tuple[str, int]]) -> dict[str, str]:
    """Connect from the address `source` to every target; what went wrong under the names that failed."""

    def attempt(target: tuple[str, int]) -> str:
        address, port = target
        try:
            with socket.create_connection((address, port), timeout=DIAL_SECONDS, source_address=(source, 0)) as link:
                return "" if link.recv(1) else "closed at once"
        except OSError as error:
            return str(error.strerror or error)

    with ThreadPoolExecutor(max(len(targets), 1)) as pool:
        outcomes = dict(zip(targets, pool.map(attempt, targets.values()), strict=True))
    return {name: outcome for name, outcome in outcomes.items() if outcome}


def free_port(address: str) -> int:
    """A port that nobody uses."""
    with socket.create_server((address, 0)) as server:
        return int(server.getsockname()[1])


def gloo(*, interface: str, rank: int, world_size: int, address: str, port: int, limit: float) -> float:
    """Sum of the ranks, one per host, over gloo as in training; gives up after `limit` seconds."""
    os.environ["GLOO_SOCKET_IFNAME"] = interface
    import torch
    import torch.distributed as dist

    patience = timedelta(seconds=limit)
    store = dist.TCPStore(  # type: ignore[attr-defined]
        address, port, world_size, is_master=rank == 0, timeout=patience
    )
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=patience)
    total = torch.tensor([float(rank)])
    dist.all_reduce(total)
    dist.barrier()
    return float(total)


ACTIONS: dict[str, Callable[..., Any]] = {
    "facts": facts,
    "clock": clock,
    "place": place,
    "write_token": write_token,
    "unseen_tokens": unseen_tokens,
    "remove_token": remove_token,
    "listen": listen,
    "dial": dial,
    "free_port": free_port,
    "gloo": gloo,
}


def main() -> None:
    """Answer until the input ends; whatever libraries print goes to the error output."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"ok": ACTIONS[request.pop("do")](**request)}
        except Exception as error:
            text = (
                f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
            )
            answer = {"error": " ".join(text.split()) or type(error).__name__}
        print(json.dumps(answer), file=out, flush=True)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
