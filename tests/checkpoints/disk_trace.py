"""What a save asks of the disk: system calls seen by strace, as operations on names and bytes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CALLS = "openat,open,creat,write,pwrite64,writev,ftruncate,fsync,fdatasync,rename,renameat,renameat2,link,linkat"
CALLS += (
    ",symlink,symlinkat,unlink,unlinkat,rmdir,mkdir,mkdirat,sync_file_range,fallocate,copy_file_range,sendfile,close"
)
MISSING = "strace is not installed" if shutil.which("strace") is None else ""
# 1234  write(5</a/b>, "\x41..."..., 3) = 3
LINE = re.compile(r"^(?:\d+ +)?(\w+)\((.*)\) += (-?\d+)(?:<([^>]*)>)?(?: \w+ \(.*\))?$")
STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
DESCRIPTOR = re.compile(r"^(?:AT_FDCWD|\d+)(?:<([^>]*)>)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """`create` and `make` (a folder), `write` of bytes at the end, `flush`, `rename` to `target`, `remove`."""

    kind: str
    path: str
    data: bytes = b""
    target: str = ""


def record(folder: Path, action: Callable[[], None]) -> list[Operation]:
    """Operations below `folder` of a forked child that runs `action`, its threads included."""
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(ready[1], b"r")
            os.read(go[0], 1)
            action()
            status = 0
        finally:
            os._exit(status)
    log = folder.parent / f"{folder.name}.trace"
    try:
        os.read(ready[0], 1)
        command = ["strace", "-f", "-y", "-xx", "-s", "10000000", "-e", f"trace={CALLS}", "-e", "signal=none"]
        tracer = subprocess.Popen([*command, "-o", str(log), "-p", str(child)], stderr=subprocess.DEVNULL)
        while f"TracerPid:\t{tracer.pid}" not in Path(f"/proc/{child}/status").read_text():
            assert tracer.poll() is None, "strace may not look at other processes here"
            time.sleep(0.005)
        os.write(go[1], b"g")
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        tracer.wait()
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        for end in (*ready, *go):
            os.close(end)
    assert status == 0, f"the traced save ended with {status}"
    operations = parse(log.read_text(), str(folder.resolve()))
    log.unlink()
    return operations


def parse(text: str, root: str) -> list[Operation]:
    """The successful operations below `root` in the order of their completion."""
    found: list[Operation] = []
    begun: dict[str, str] = {}
    for line in text.splitlines():
        task, _, rest = line.partition(" ")
        if rest.endswith("<unfinished ...>"):
            begun[task] = rest.removesuffix("<unfinished ...>").strip()
            continue
        if resumed := re.match(r"^\s*<\.\.\. \w+ resumed>(.*)$", rest):
            line = begun.pop(task) + resumed[1]
        else:
            line = rest.strip()
        match = LINE.match(line)
        if match is None or int(match[3]) < 0:
            continue
        operation = operation_of(match[1], match[2], int(match[3]), match[4])
        if operation is not None and (operation.path + "/").startswith(root + "/"):
            found.append(operation)
    return found


def operation_of(call: str, arguments: str, result: int, opened: str | None) -> Operation | None:
    """What one call does to the disk, None for one that does nothing. AssertionError for one that is not understood."""
    strings = [bytes.fromhex(text.replace("\\x", "")) for text in STRING.findall(arguments)]
    names = [os.fsdecode(text) for text in strings]
    first = DESCRIPTOR.match(arguments)
    at = unescaped(first[1]) if first and first[1] else ""
    if call in ("openat", "open", "creat"):
        if not any(word in arguments for word in ("O_WRONLY", "O_RDWR", "O_CREAT")):
            return None
        assert "O_CREAT" in arguments and ("O_EXCL" in arguments or "O_TRUNC" in arguments), arguments
        return Operation(kind="create", path=unescaped(opened or "") or names[0])
    if call == "write":
        assert len(strings[0]) == result, "a write was seen in part"
        return Operation(kind="write", path=at, data=strings[0])
    if call in ("fsync", "fdatasync"):
        return Operation(kind="flush", path=at)
    if call in ("mkdir", "mkdirat"):
        return Operation(kind="make", path=joined(arguments, names[0]))
    if call in ("rename", "renameat", "renameat2"):
        return Operation(kind="rename", path=names[0], target=names[1])
    if call in ("unlink", "unlinkat", "rmdir"):
        return Operation(kind="remove", path=joined(arguments, names[0]))
    assert call == "close", f"{call} is not understood: {arguments}"
    return None


def joined(arguments: str, name: str) -> str:
    """Path of a name that may be relative to a descriptor."""
    match = re.match(r"^\d+<([^>]*)>", arguments)
    return os.path.join(unescaped(match[1]), name) if match else name


def unescaped(text: str) -> str:
    """A path that strace wrote in hexadecimal."""
    return os.fsdecode(re.sub(r"\\x([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), text).encode("latin-1"))
