"""Poisoned pickles in the place of checkpoints: refused without being unpickled, and by the import too."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import fuzz_checkpoints
import pytest
from audit import watched
from poisoned_pickles import CARRIERS, carried, gadgets

from s4d.errors import DataError
from s4d.models.foreign import child
from s4d.models.foreign.isolated import find_shards, read_isolated
from s4d.models.foreign.walls import close_doors
from s4d.models.weights import load_initial

NAMES = sorted(gadgets(Path("/x")))
COUNT = len(NAMES) * len(CARRIERS)
ALONE = "model_states.pt"
TAKEN, REFUSED = 0, 7


def prepare(folder: Path) -> None:
    """The trees whose files are replaced."""
    fuzz_checkpoints.prepare(folder)
    child.warm_up()


def run(number: int, folder: Path) -> str:
    """Case `number`: one gadget in one file, read in all ways that a user has.

    Cases go through the gadgets once for each carrier, in an order that meets each of both early.
    """
    gadget = NAMES[number % len(NAMES)]
    carrier = list(CARRIERS)[(number + number // len(NAMES)) % len(CARRIERS)]
    canary = folder / "canary"
    name, content = carried(gadgets(canary)[gadget], carrier)
    root = folder / f"case-{number * 3}"
    try:
        outcomes = [_in_a_checkpoint(folder, root, name, content)]
        outcomes.append(_unpickled(content))
        # Importing starts a process, which takes most of the time: each carrier goes through it once.
        if number < len(CARRIERS):
            outcomes.append(_imported(root, name, content))
        assert not canary.exists(), "the canary was left"
        assert set(outcomes) == {"refused"}, outcomes
        return f"refused by {len(outcomes)}"
    finally:
        shutil.rmtree(root, ignore_errors=True)
        assert not canary.exists()


def _in_a_checkpoint(folder: Path, root: Path, name: str, content: bytes) -> str:
    """In a run's newest checkpoint and as a path to initial weights; the interpreter is watched."""
    shutil.copytree(folder / "run", root)
    newest = root / "checkpoints/step-00000002"
    (newest / name).write_bytes(content)
    model = fuzz_checkpoints.build_pretrain(fuzz_checkpoints.HELD["arch"], seed=0)
    with watched(folder):
        looks = {look.__name__: look(root) for look in fuzz_checkpoints.LOOKS["run"]}
        # What resuming meets is named in a warning, and the checkpoint before is taken.
        assert looks["_verify"] == looks["_verify_command"] == "refused" and looks["_resume"] == "fell back", looks
        for path in (newest / name, newest, root):
            with pytest.raises(DataError, match=str(root)):
                load_initial(model, path)
    return "refused"


def _unpickled(content: bytes) -> str:
    """What the process that imports does with a file, in a copy of this process that has everything it needs."""
    number = os.fork()
    if number == 0:
        status = TAKEN
        try:
            close_doors(memory=1 << 28, seconds=30, output=0)
            child.of_release({"": child.unpickled(io.BytesIO(content))})
        except BaseException:
            status = REFUSED
        os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
    assert status == REFUSED, f"the reading process ended with status {status}"
    return "refused"


def _imported(root: Path, name: str, content: bytes) -> str:
    """By the explicit command, which may read pickles: what is poisoned is refused, never read another way."""
    path = root / "foreign" / name
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(DataError, match=str(path.parent)) as caught:
        read_isolated("release", [path])
    text = str(caught.value)
    assert "\n" not in text and len(text) < 2000, text
    if name.endswith(ALONE):
        with pytest.raises(DataError, match=str(path.parent)):
            read_isolated("deepspeed", find_shards(path.parent))
    return "refused"
