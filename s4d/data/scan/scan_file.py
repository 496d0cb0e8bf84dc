"""Scan files: one line of JSON per look at a medium, only ever appended to, so that a scan can be interrupted."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from s4d.data.scan.record import Probe
from s4d.errors import DataError, UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class Scan:
    """Content of a scan file: the last look at each path, and (earlier, last) where the content changed in between."""

    probes: dict[str, Probe] = field(default_factory=dict)
    changed: dict[str, tuple[Probe, Probe]] = field(default_factory=dict)


def read_scan(path: Path) -> Scan:
    """Read a scan file; a torn last line is left out, any other line that cannot be read is a DataError."""
    scan = Scan()
    for probe in _lines(path):
        before = scan.probes.get(probe.path)
        if before is not None and before.sha256 and probe.sha256 and before.sha256 != probe.sha256:
            scan.changed.setdefault(probe.path, (before, probe))
        scan.probes[probe.path] = probe
    return scan


def _lines(path: Path) -> Iterator[Probe]:
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if not line.endswith(b"\n"):
                    return
                try:
                    yield Probe.from_line(line)
                except (ValueError, TypeError, RecursionError) as error:
                    raise DataError(f"{path}: line {number}: {str(error).splitlines()[0]}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror or error}") from error


class ScanWriter:
    """Appends whole lines to a scan file that nobody else is writing; a torn last line is cut off first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise DataError(f"{path}: cannot write: {error.strerror or error}") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _cut_torn_line(self._descriptor)
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise UsageError(f"{path}: another scan is writing this file") from error

    def write(self, probe: Probe) -> None:
        """Append one line in one call."""
        line = probe.to_line().encode("ascii")
        try:
            while line:
                line = line[os.write(self._descriptor, line) :]
        except OSError as error:
            raise DataError(f"{self.path}: cannot write: {error.strerror or error}") from error

    def __enter__(self) -> ScanWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.fsync(self._descriptor)
        os.close(self._descriptor)


def _cut_torn_line(descriptor: int) -> None:
    """Cut the file behind its last newline."""
    end = os.fstat(descriptor).st_size
    position = end
    while position > 0:
        start = max(0, position - (1 << 16))
        found = os.pread(descriptor, position - start, start).rfind(b"\n")
        if found >= 0:
            position = start + found + 1
            break
        position = start
    if position < end:
        os.ftruncate(descriptor, position)
