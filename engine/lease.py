"""Who has a run folder: a lease file that all nodes see, renewed while its owner lives.

The folder holds `.lease-<generation>`; the highest generation is the owner's. Who takes over creates the next one,
which can succeed only once, and a renewal writes to the owner's own file alone, so nobody undoes what another one took.
Clocks are not compared: an owner on another machine counts as dead when its file has not changed for a while.
"""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine.errors import RunFolderError, StateRefusedError

PREFIX = ".lease-"
BEAT_SECONDS = 1.0
SILENCE_SECONDS = 60.0
# A check that the lease is still held serves for so long; nobody takes over that soon after a renewal.
FRESH_SECONDS = 3 * BEAT_SECONDS
POLL_SECONDS = 0.05
SIZE = 1024


class Lease:
    """A folder's lease: `take` it, `check` it before writing, `release` it."""

    def __init__(self, folder: Path, *, silence_seconds: float = SILENCE_SECONDS) -> None:
        self._folder = folder
        self._silence_seconds = silence_seconds
        self._me = describe_process()
        self._beat = 0
        self._generation = 0
        self._descriptor = -1
        self._confirmed = 0.0
        self._taken_by: dict[str, Any] | None = None
        self._renewing = threading.Lock()
        self._ended = threading.Event()

    def take(self) -> None:
        """Become the owner; StateRefusedError names the owner if there is one, within about two seconds.

        Where the owner was on another machine and its lease does not change, this waits until it counts as dead.
        """
        while True:
            generation, content = _newest(self._folder)
            if content is not None and not self._is_free(generation, content):
                continue
            self._descriptor = _create(self._path(generation + 1))
            if self._descriptor < 0:
                continue
            self._generation = generation + 1
            self._write()
            # Somebody may have taken and left it between our look and our file: whoever came later stays.
            if _newest(self._folder)[0] == self._generation:
                break
            os.close(self._descriptor)
            self._path(self._generation).unlink(missing_ok=True)
        self._confirmed = time.monotonic()
        for number in _generations(self._folder):
            if number < self._generation:
                self._path(number).unlink(missing_ok=True)
        threading.Thread(target=self._renew, name="lease", daemon=True).start()

    def check(self) -> None:
        """StateRefusedError if another run has taken over; RunFolderError if that cannot be found out for too long."""
        age = time.monotonic() - self._confirmed
        # The renewing thread may have been stopped with this one: what it found long ago says nothing.
        if self._taken_by is None and age > FRESH_SECONDS:
            try:
                self._confirm()
            except OSError as error:
                if age > self._silence_seconds / 2:
                    raise RunFolderError(f"{self._folder}: the lease cannot be renewed: {error.strerror}") from error
        if self._taken_by is not None:
            raise StateRefusedError(f"{self._folder}: taken over by {_named(self._taken_by)}; nothing more is written")

    def release(self) -> None:
        """Let others have the folder."""
        self._ended.set()
        with self._renewing, suppress(OSError):
            if self._descriptor >= 0:
                self._me["released"] = True
                self._write()
                os.close(self._descriptor)
            self._descriptor = -1

    def remove(self) -> None:
        """Release it and leave no file, for a folder that is to vanish."""
        self.release()
        with suppress(OSError):
            self._path(self._generation).unlink()

    def _is_free(self, generation: int, content: bytes) -> bool:
        """True if the owner has released it or is dead, False if it has changed and is to be looked at again."""
        owner = _parsed(content)
        if owner.get("released"):
            return True
        if _is_here(owner, self._me):
            if process_start(owner["pid"]) != owner["process_start"]:
                return True
            raise _refusal(self._folder, owner)
        return self._is_silent(generation, content)

    def _is_silent(self, generation: int, content: bytes) -> bool:
        """Watch the lease of somebody whose life cannot be looked up."""
        began = time.monotonic()
        told = False
        while (waited := time.monotonic() - began) < self._silence_seconds:
            time.sleep(POLL_SECONDS)
            now = _newest(self._folder)
            if now != (generation, content):
                owner = _parsed(now[1] or b"")
                # A lease that had just been created had nothing in it yet.
                if now[0] == generation and not owner.get("released") and _parsed(content):
                    raise _refusal(self._folder, owner)
                return False
            if waited > 2 * BEAT_SECONDS and not told:
                told = True
                print(
                    f"{self._folder}: waiting {self._silence_seconds:g} s for a sign of {_named(_parsed(content))}",
                    flush=True,
                )
        return True

    def _renew(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            # A file system that does not answer now may answer later; `check` decides when that is too late.
            with suppress(OSError):
                self._confirm()

    def _confirm(self) -> None:
        """Renew the lease and look whether it still is one."""
        with self._renewing:
            if self._ended.is_set():
                return
            began = time.monotonic()
            self._write()
            generation, content = _newest(self._folder)
            if generation == self._generation:
                self._confirmed = began
            else:
                self._taken_by = _parsed(content or b"")

    def _write(self) -> None:
        self._beat += 1
        text = json.dumps({**self._me, "beat": self._beat})
        os.pwrite(self._descriptor, text.encode().ljust(SIZE - 1) + b"\n", 0)
        # Other machines see what has left this one's cache.
        os.fsync(self._descriptor)

    def _path(self, generation: int) -> Path:
        return self._folder / f"{PREFIX}{generation:08d}"


def describe_process() -> dict[str, Any]:
    """What tells this process from all others, and when it began, for people to read."""
    return {
        "host": os.uname().nodename,
        "boot": _text("/proc/sys/kernel/random/boot_id"),
        "pid_namespace": _pid_namespace(),
        "pid": os.getpid(),
        "process_start": process_start(os.getpid()),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def process_start(pid: int) -> str | None:
    """When a process began, in ticks since the machine was started; None if there is none or it is a zombie."""
    # The name field may hold spaces and brackets; the fields after its closing bracket do not.
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else None


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _is_here(owner: dict[str, Any], me: dict[str, Any]) -> bool:
    """Whether the owner's process would be found under its number if it lived."""
    return bool(me["boot"]) and all(owner.get(key) == me[key] for key in ("host", "boot", "pid_namespace"))


def _create(path: Path) -> int:
    """A descriptor of a file that did not exist; -1 if it does."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return -1


def _generations(folder: Path) -> list[int]:
    names = (name.removeprefix(PREFIX) for name in os.listdir(folder) if name.startswith(PREFIX))
    return [int(name) for name in names if name.isdecimal()]


def _newest(folder: Path) -> tuple[int, bytes | None]:
    """The highest generation and its content; 0 and None without one."""
    while generation := max(_generations(folder), default=0):
        with suppress(FileNotFoundError):
            return generation, (folder / f"{PREFIX}{generation:08d}").read_bytes()
    return 0, None


def _parsed(content: bytes) -> dict[str, Any]:
    """What a lease says; nothing if it is empty or damaged, which is judged by its changes alone."""
    try:
        owner = json.loads(content)
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _named(owner: dict[str, Any]) -> str:
    if "pid" not in owner:
        return "another process"
    return f"process {owner['pid']} on {owner.get('host')} since {owner.get('since')}"


def _refusal(folder: Path, owner: dict[str, Any]) -> StateRefusedError:
    return StateRefusedError(f"{folder}: in use by {_named(owner)}")
