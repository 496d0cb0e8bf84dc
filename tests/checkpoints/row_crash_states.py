"""R4: whatever a power failure leaves of a save, the checkpoint before or the new one is loaded; the run goes on."""

from __future__ import annotations

import io
import random
import shutil
from contextlib import redirect_stdout
from pathlib import Path

import torch
from disk_crash import Disk
from disk_trace import MISSING
from small_run import SmallRun
from traced_saves import WIDTH, Situation, record_all

from engine.checkpoint_files import verify_checkpoint
from engine.checkpoint_retention import published
from engine.errors import StateRefusedError

HELD: list[Situation] = []


def prepare(folder: Path) -> None:
    """Saves in every situation, recorded once."""
    torch.set_num_threads(1)
    if not MISSING:
        HELD[:] = record_all(folder / "traces")


def run(number: int, folder: Path) -> str:
    """The crash after some operation of some situation: with growing numbers every operation is reached."""
    if MISSING:
        return f"skipped: {MISSING}"
    draw = random.Random(number)
    situation = HELD[number % len(HELD)]
    prefix = number // len(HELD) % (len(situation.operations) + 1)
    disk = Disk(str(situation.root.resolve()), situation.before)
    for operation in situation.operations[:prefix]:
        disk.take(operation)
    root = folder / "crashed"
    disk.write_crashed(draw, root)
    return judge(root, situation)


def judge(root: Path, situation: Situation) -> str:
    """Load what is there, save on top of it."""
    survivor = SmallRun(root, width=WIDTH, keep_last=1)
    latest = root / "checkpoints/latest"
    if latest.exists() and not situation.renames_newest:
        verify_checkpoint(root / "checkpoints" / latest.read_text().strip())
    with redirect_stdout(io.StringIO()):
        try:
            step = survivor.load()
        except StateRefusedError:
            assert situation.nothing, "a checkpoint was lost"
            outcome = "nothing, as before"
            step = 0
        except Exception as error:
            missing = not (root / "checkpoints").exists()
            assert missing and situation.nothing, f"{type(error).__name__}: {error}"
            outcome = "nothing, as before"
            step = 0
        else:
            assert survivor.sums() in situation.allowed, "neither the old nor the new state"
            outcome = "new" if survivor.sums() == situation.allowed[-1] else "old"
        again = SmallRun(root, width=WIDTH, keep_last=1) if not step else survivor
        again.advance()
        again.save()
        again.checkpoints.wait()
    left = sorted(path.name for path in (root / "checkpoints").iterdir())
    allowed = {"latest", f"step-{again.step:08d}"}
    assert set(left) == allowed, f"{left} is left"
    assert published(root / "checkpoints")[0].name == latest.read_text().strip()
    verify_checkpoint(root / "checkpoints" / latest.read_text().strip())
    shutil.rmtree(root)
    return f"{situation.name}: {outcome}"
