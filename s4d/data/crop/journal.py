"""What a folder of crops already holds, so that an interrupted run is continued and nothing is done twice."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from s4d.atomic_files import write_atomically
from s4d.data.crop.cutting import CropJob, Cropped
from s4d.data.scan.digest import stamp
from s4d.errors import DataError, UsageError

SETTINGS_FILE = "crop.json"
JOURNAL_FILE = "crop.jsonl"


class Journal:
    """Results of finished jobs, a line each, by the job's target and what it was made of."""

    def __init__(self, stream: IO[bytes], known: dict[str, tuple[str, Cropped]]) -> None:
        self._stream = stream
        self._known = known

    def finished(self, job: CropJob) -> Cropped | None:
        """The result of a job that was done with the same medium and face before."""
        made_of, result = self._known.get(job.target, ("", None))
        if result is None or not job.path.exists():
            return None
        return result if made_of == _made_of(job) else None

    def add(self, job: CropJob, result: Cropped) -> None:
        """Note that a job is done; its files are in place."""
        entry = {"target": job.target, "made_of": _made_of(job), "result": asdict(result)}
        self._stream.write((json.dumps(entry) + "\n").encode("utf-8"))
        self._stream.flush()


@contextmanager
def open_journal(out: Path, settings: dict[str, str]) -> Iterator[Journal]:
    """Start or continue a folder of crops.

    UsageError for a folder that holds something else or crops made with other settings, and while another process
    writes to it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        _check_settings(out, settings)
        with (out / JOURNAL_FILE).open("ab+") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UsageError(f"--out {out}: another process is writing crops there") from error
            known, whole = _read(stream)
            # A line that was cut when the process was killed.
            stream.truncate(whole)
            yield Journal(stream, known)
            os.fsync(stream.fileno())
    except OSError as error:
        raise DataError(f"{error.filename or out}: cannot write: {error.strerror or error}") from error


def _check_settings(out: Path, settings: dict[str, str]) -> None:
    path = out / SETTINGS_FILE
    if not path.exists():
        if any(out.iterdir()):
            raise UsageError(f"--out {out}: not empty and no folder of crops; choose another")
        write_atomically(path, json.dumps(settings, indent=2) + "\n")
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        before = {name: str(found[name]) for name in settings}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not readable as the settings of a folder of crops: {error!r}") from error
    for name, value in settings.items():
        if before[name] != value:
            raise UsageError(f"--out {out}: holds crops with {name} {before[name]!r}, not {value!r}; choose another")


def _read(stream: IO[bytes]) -> tuple[dict[str, tuple[str, Cropped]], int]:
    """Finished jobs, and the length of the lines that are whole."""
    known: dict[str, tuple[str, Cropped]] = {}
    whole = 0
    stream.seek(0)
    for line in stream:
        if not line.endswith(b"\n"):
            break
        try:
            entry = json.loads(line)
            known[entry["target"]] = (entry["made_of"], _result(entry["result"]))
        except (ValueError, KeyError, TypeError):
            break
        whole += len(line)
    return known, whole


def _result(values: dict[str, Any]) -> Cropped:
    for name in ("box", "points"):
        if values[name] is not None:
            values[name] = tuple(values[name])
    return Cropped(**values)


def _made_of(job: CropJob) -> str:
    """Size and time of the medium with all its files, and the face that its row has."""
    size, changed = stamp(job.path, job.kind)
    face = None if job.face is None else (job.face.box, job.face.points)
    return f"{job.kind} {size} {changed} {face}"
