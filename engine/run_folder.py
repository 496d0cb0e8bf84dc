"""The run folder: who owns it, what progress it holds, and whether that is continued, refused or replaced."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine.checkpoint import candidates
from engine.checkpoint_files import replace_text
from engine.checkpoint_manifest import MANIFEST
from engine.checkpoint_retention import published
from engine.errors import CheckpointError, RunFolderError, StateRefusedError
from engine.lease import PREFIX, Lease
from engine.protocols import EngineSettings

METRICS = "metrics.jsonl"
OUTCOMES = (
    "finished.json",
    "evaluation*.json",
    "predictions*.csv",
    "predictions*.npz",
    "routing*.json",
    "reconstructions*.npz",
)


class RunFolder:
    """One run's folder; `claim` keeps other runs out of it, on whatever machine, for as long as this process lives."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lease: Lease | None = None
        self._created: list[Path] = []

    def claim(self) -> None:
        """Take the folder for this process; StateRefusedError names the process that has it."""
        created = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lease = Lease(self.path)
            lease.take()
        except OSError as error:
            raise RunFolderError(f"run_dir: {self.path}: cannot be written: {error.strerror}") from error
        self._lease = lease
        self._created = created

    def check(self) -> None:
        """To be called before writing: StateRefusedError if another run has taken the folder that was claimed here."""
        if self._lease is not None:
            self._lease.check()

    def withdraw(self) -> None:
        """Remove a folder that `claim` made and in which no step was logged or saved, as if nobody had come."""
        if self._lease is not None and self._created and not self._holds_progress():
            for path in self.path.iterdir():
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                elif not path.name.startswith(PREFIX):
                    path.unlink(missing_ok=True)
            # The last thing to go: whoever takes the folder now keeps it.
            self._lease.remove()
            for folder in self._created:
                with suppress(OSError):
                    folder.rmdir()
        self.release()

    def _holds_progress(self) -> bool:
        return bool(last_step(self.path / METRICS)) or (self.path / "checkpoints").exists()

    def release(self) -> None:
        """Let other runs have the folder."""
        if self._lease is not None:
            self._lease.release()
            self._lease = None

    def source(self, resume: str, policy: EngineSettings) -> Path | None:
        """Where to continue from under `--resume auto|never|PATH`; None: start at step 0.

        StateRefusedError if the folder holds progress that would be lost: `never` with any progress, `auto` with
        progress that must have left a checkpoint but has none. CheckpointError if PATH is none.
        """
        reached = last_step(self.path / METRICS)
        saved = published(self.path / "checkpoints")
        if resume not in ("auto", "never"):
            if not any((folder / MANIFEST).is_file() for folder in candidates(Path(resume))):
                raise CheckpointError(f"--resume {resume}: no run or checkpoint folder there")
            return Path(resume)
        if resume == "never":
            if saved or reached:
                raise StateRefusedError(f"{self.path}: holds progress up to step {reached}; --fresh replaces it")
            return None
        if saved:
            return self.path
        # A run killed before its first checkpoint lost nothing that was ever saved and starts over.
        # The first checkpoint is there at the latest when the second is due, unless the disk may refuse some.
        every = policy.save_every
        promised = every is not None and reached > (2 + policy.save_failures) * every
        if promised or self._outcomes() or (self.path / "checkpoints" / "latest").exists():
            raise StateRefusedError(
                f"{self.path}: progress up to step {reached} but no checkpoint in {self.path / 'checkpoints'}; "
                "--fresh starts over"
            )
        return None

    def clear(self) -> None:
        """Remove the progress of an earlier run; everything else in the folder stays."""
        checkpoints = self.path / "checkpoints"
        if checkpoints.is_dir():
            shutil.rmtree(checkpoints, ignore_errors=True)
        else:
            checkpoints.unlink(missing_ok=True)
        for path in (self.path / METRICS, self.path / "backends.json", *self._outcomes()):
            path.unlink(missing_ok=True)

    def _outcomes(self) -> list[Path]:
        return [path for pattern in OUTCOMES for path in self.path.glob(pattern)]

    def write_json(self, name: str, content: Any) -> None:
        """Replace one JSON file in one step."""
        replace_text(self.path / name, json.dumps(content, indent=1, sort_keys=True) + "\n")

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Object in a JSON file, None if there is none; StateRefusedError if it is damaged."""
        try:
            content = json.loads((self.path / name).read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise StateRefusedError(f"{self.path / name}: not JSON: {error}") from error
        if not isinstance(content, dict):
            raise StateRefusedError(f"{self.path / name}: expected a JSON object, got {type(content).__name__}")
        return content


def last_step(metrics: Path) -> int:
    """Largest step in a metrics file; 0 without one."""
    return max((step for step, _ in _entries(metrics)), default=0)


def cut_metrics(metrics: Path, step: int) -> None:
    """Drop what was logged after `step`, and damaged lines."""
    if metrics.exists():
        replace_text(metrics, "".join(line for at, line in _entries(metrics) if at <= step))


def _entries(metrics: Path) -> list[tuple[int, str]]:
    if not metrics.exists():
        return []
    entries = []
    for line in metrics.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        # What a crash or a bad disk left of a line says nothing; the lines after it still tell how far the run was.
        with suppress(ValueError, KeyError, TypeError):
            entries.append((int(json.loads(line)["step"]), line))
    return entries
