"""Saves in every situation of a run, recorded: what was on the disk before, what was asked of it, what may load."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from disk_trace import Operation, record
from small_run import SmallRun

from engine.checkpoint_files import REPLACED

# Small, so that a state of the disk is quickly rebuilt.
WIDTH = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """`before` is the folder as the save finds it; `allowed` are the checksums of what may be loaded after a crash.

    `nothing` is True where nothing was saved before, so that a crash may leave nothing.
    """

    name: str
    root: Path
    before: Path
    operations: list[Operation]
    allowed: list[dict[str, str]]
    nothing: bool
    # The newest checkpoint gives its name away: for a moment the pointer names nothing.
    renames_newest: bool


def record_all(folder: Path) -> list[Situation]:
    """Every situation, recorded below `folder`."""
    return [record_one(folder / name, name) for name in PLANS]


def record_one(folder: Path, name: str) -> Situation:
    """One situation, recorded in `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    root = folder / "run"
    root.mkdir(parents=True)
    run = SmallRun(root, width=WIDTH, keep_last=1, **POLICIES.get(name, {}))
    earlier, change, saves = PLANS[name]
    for _ in range(earlier):
        _advance(run)
        run.save()
    run.checkpoints.wait()
    allowed = [run.sums()] if earlier else []
    if not saves:
        # What this process has saved it does not save again; one that continues the run does.
        run = SmallRun(root, width=WIDTH, keep_last=1)
        run.load()
    change(run)
    shutil.copytree(root, folder / "before", symlinks=True)

    def act() -> None:
        for _ in range(max(1, saves)):
            if saves:
                _advance(run)
            run.save()
        run.checkpoints.wait()

    operations = record(root, act)
    # The child did this in its own memory; here it is done again to know the sums.
    for _ in range(saves):
        _advance(run)
        allowed.append(run.sums())
    allowed += [] if saves else [run.sums()]
    return Situation(
        name=name,
        root=root,
        before=folder / "before",
        operations=operations,
        allowed=allowed,
        nothing=not earlier or name == "damaged",
        renames_newest=not saves,
    )


def _advance(run: SmallRun) -> None:
    run.advance()
    # The first is the best.
    run.checkpoints.scored(run.step, {"val.uar": 1.0 / run.step})


def _leave(run: SmallRun) -> None:
    """What crashes left: half a checkpoint aside, half a pointer, half a removal, a replaced folder."""
    folder = run.folder / "checkpoints"
    for name in (".tmp-step-00000002-00000000", ".tmp-gone-00000000", f"step-00000001{REPLACED}"):
        (folder / name).mkdir()
        (folder / name / "model.safetensors").write_bytes(b"half")
    (folder / ".tmp-latest").write_text("st")


def _damage(run: SmallRun) -> None:
    path = run.folder / f"checkpoints/step-{run.step:08d}/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def _change(run: SmallRun) -> None:
    with_other_bits = next(iter(run.task.module.parameters()))
    with_other_bits.data.add_(1.0)


def _same(run: SmallRun) -> None:
    pass


# Saves before, what happens then, steps that are taken and saved while all is recorded (0: the same step again).
PLANS: dict[str, tuple[int, Callable[[SmallRun], None], int]] = {
    "first": (0, _same, 1),
    "next": (1, _same, 1),
    "several": (2, _same, 3),
    "best kept": (2, _same, 2),
    "leftovers": (1, _leave, 1),
    "again": (1, _same, 0),
    "again, other bits": (1, _change, 0),
    "damaged": (1, _damage, 0),
}
POLICIES = {"best kept": {"keep_best": "val.uar"}, "several": {"keep_every": 2}}
