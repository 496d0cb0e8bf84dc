"""What the system knows about a rank from outside: its state, how it ended, the stack it dumps on a signal."""

from __future__ import annotations

import os
import re
import signal
import time
from contextlib import suppress
from pathlib import Path

# No scheduler sends this one. Python's handler for it is C code that needs no lock of the interpreter.
STACK_SIGNAL = signal.SIGRTMIN + 5
STACK_SECONDS = 1.5
# A dump that has not grown for so long is whole.
STABLE_SECONDS = 0.1
MAX_STACK_BYTES = 1 << 16
_THREAD = re.compile(r"^(?:Thread|Current thread) 0x([0-9a-f]+)")
_FRAME = re.compile(r'^  File "(.*)", line (\d+) in (.*)$')
# A thread whose innermost frame lies here waits for other ranks.
WAITING_FOLDERS = ("torch/distributed/", "deepspeed/comm/", "deepspeed/runtime/")


def state_of(pid: int) -> str:
    """One letter as the kernel shows it: R runs, S sleeps, D waits for a device, T stopped; X if it is gone."""
    fields = _stat(pid)
    return fields[0] if fields else "X"


def how_it_ended(pid: int) -> str:
    """The end of a process that its parent has not asked about yet; of others nothing is known."""
    fields = _stat(pid)
    if not fields or fields[0] != "Z":
        return "gone"
    status = os.waitstatus_to_exitcode(int(fields[49]))
    if status < 0:
        with suppress(ValueError):
            return f"ended by {signal.Signals(-status).name}"
        return f"ended by signal {-status}"
    return f"left with status {status} in the middle of the run"


def _stat(pid: int) -> list[str]:
    try:
        # The name field may hold spaces and brackets; the fields after its closing bracket do not.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def stacks_of(processes: dict[int, int]) -> dict[int, str]:
    """Dumps of all threads by process id, from process ids and the descriptors they dump into; empty if none came."""
    before = {pid: _size(pid, descriptor) for pid, descriptor in processes.items()}
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, STACK_SIGNAL)
    end = time.monotonic() + STACK_SECONDS
    dumps = dict.fromkeys(processes, "")
    while time.monotonic() < end:
        time.sleep(STABLE_SECONDS)
        earlier = dumps
        dumps = {pid: _text(pid, descriptor, before[pid]) for pid, descriptor in processes.items()}
        if all(dumps.values()) and dumps == earlier:
            break
    return dumps


def _dump_path(pid: int, descriptor: int) -> str:
    return f"/proc/{pid}/fd/{descriptor}"


def _size(pid: int, descriptor: int) -> int:
    with suppress(OSError):
        return os.stat(_dump_path(pid, descriptor)).st_size
    return 0


def _text(pid: int, descriptor: int, start: int) -> str:
    with suppress(OSError), open(_dump_path(pid, descriptor), "rb") as stream:
        stream.seek(start)
        return stream.read(MAX_STACK_BYTES).decode(errors="replace")
    return ""


def main_frame(stack: str, thread: int) -> str:
    """`file:line in function` of the innermost frame of `thread`; empty if the dump does not show it."""
    return next((_named(frames[0]) for ident, frames in _threads(stack) if ident == thread and frames), "")


def is_waiting(stack: str) -> bool:
    """True if a thread of the dump is within a collective."""
    return any(frames and any(folder in frames[0][0] for folder in WAITING_FOLDERS) for _, frames in _threads(stack))


def _threads(stack: str) -> list[tuple[int, list[tuple[str, str, str]]]]:
    found: list[tuple[int, list[tuple[str, str, str]]]] = []
    for line in stack.splitlines():
        if thread := _THREAD.match(line):
            found.append((int(thread[1], 16), []))
        elif (frame := _FRAME.match(line)) and found:
            found[-1][1].append((frame[1], frame[2], frame[3]))
    return found


def _named(frame: tuple[str, str, str]) -> str:
    return f"{'/'.join(Path(frame[0]).parts[-3:])}:{frame[1]} in {frame[2]}"
