"""Writing checkpoints beside the training: a thread of rank 0 publishes what the main thread has copied.

The thread talks to nobody: that a write failed is agreed on by all ranks in the main thread, at the next step boundary.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from engine.checkpoint_files import refused, step_folder, sweep, write_checkpoint
from engine.checkpoint_retention import Retention, update
from engine.errors import SaveError
from engine.runtime import Runtime

# Ranks that wait for a write meet this often, so that no collective lasts as long as a slow disk.
MEET_SECONDS = 0.2
PENDING, PUBLISHED, TOLERATED = 0, 1, 2
PHASE = "writing the checkpoint"


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """The content of one checkpoint: safetensors files and JSON files by name, complete once `begin` has returned."""

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    records: Mapping[str, Mapping[str, Any]]
    begin: Callable[[], None]


class CheckpointWriter:
    """Publishes one snapshot at a time into `folder`; all methods but `linger` are collective.

    A disk that refuses is met with a warning up to `allowed_failures` times in a row. Everything else a write can meet,
    such as a tensor that is not finite, ends the run.
    """

    def __init__(self, folder: Path, *, runtime: Runtime, retention: Retention, allowed_failures: int) -> None:
        self._folder = folder
        self._runtime = runtime
        self._retention = retention
        self._allowed = allowed_failures
        # Equal on all ranks: a write was begun and its end is not agreed on.
        self._open = False
        # The step of the newest write that was not refused, as far as is agreed on; equal on all ranks.
        self.step: int | None = None
        # Of rank 0 alone.
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._failures_in_row = 0

    def sweep(self) -> None:
        """Remove what earlier runs in this folder left half done; called by rank 0 before anything is written."""
        sweep(self._folder)

    def begin(self, step: int, snapshot: Snapshot | None) -> None:
        """Start to publish what rank 0 has copied (None elsewhere) and return; none may be under way."""
        assert not self._open, "one checkpoint is still being written"
        self._open = True
        self.step = step
        self._failure = None
        if snapshot is not None:
            # A daemon: a process that must leave is not held back by it.
            self._thread = threading.Thread(target=self._run, args=(snapshot,), name="checkpoint", daemon=True)
            self._thread.start()

    def settle(self) -> None:
        """Raise on all ranks what the write met, if it has ended; without a write under way nothing is exchanged."""
        if self._open:
            self._conclude()

    def free(self) -> None:
        """Wait until nothing is being written; raises what `settle` raises."""
        while self._open:
            if self._thread is not None:
                self._thread.join(MEET_SECONDS)
            self._conclude()

    def wait(self) -> None:
        """Wait for the last checkpoint before leaving: it must be there, whatever failures are allowed."""
        self.free()
        with self._runtime.together(PHASE):
            if self._failure is not None:
                raise self._failure

    def linger(self, seconds: float) -> None:
        """Let a write under way end before this process leaves for another reason; not collective."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _conclude(self) -> None:
        failure = None
        verdict = PENDING
        if self._thread is not None and not self._thread.is_alive():
            failure = self._failure
            verdict = self._judge(failure)
        agreed = self._runtime.agree(verdict)
        if agreed == PENDING:
            return
        self._open = False
        self._thread = None
        if agreed == TOLERATED:
            self.step = None
        if agreed not in (PUBLISHED, TOLERATED):
            self._runtime.raise_first(failure, agreed, PHASE)

    def _judge(self, failure: BaseException | None) -> int:
        if failure is None:
            self._failures_in_row = 0
            return PUBLISHED
        self._failures_in_row += 1
        if not isinstance(failure, SaveError) or self._failures_in_row > self._allowed:
            return self._runtime.verdict(failure)
        print(f"warning: {failure}; going on, failure {self._failures_in_row} of {self._allowed} allowed", flush=True)
        return TOLERATED

    def _run(self, snapshot: Snapshot) -> None:
        try:
            publish(self._folder, snapshot, self._retention)
        except BaseException as error:
            self._failure = error


def publish(folder: Path, snapshot: Snapshot, retention: Retention) -> None:
    """Write one checkpoint of a run, point at it, remove the ones that are not kept."""
    target = step_folder(folder, snapshot.step)
    try:
        snapshot.begin()
        sweep(folder)
        write_checkpoint(target, snapshot.tensors, snapshot.records)
        update(folder, target, retention)
    except OSError as error:
        needed = sum(tensor.nbytes for content in snapshot.tensors.values() for tensor in content.values())
        raise refused(target, error, needed) from error
