"""R5: one thing is wrong with the newest checkpoint of a run: it is found, named, and the one before is taken."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
from small_run import SmallRun

from engine.checkpoint_files import verify_checkpoint
from engine.errors import CheckpointError

NEWEST, BEFORE = "step-00000003", "step-00000002"
FILES = ("model.safetensors", "optimizer.safetensors", "ema.safetensors", "state.json", "config.json", "manifest.json")
HELD: dict[str, SmallRun] = {}


def prepare(folder: Path) -> None:
    """A run with three checkpoints, and what each holds."""
    shutil.rmtree(folder / "whole", ignore_errors=True)
    torch.set_num_threads(1)
    run = SmallRun(folder / "whole", keep_last=9)
    for _ in range(3):
        run.advance()
        run.save()
    run.checkpoints.wait()
    HELD["expected"] = SmallRun(folder / "expected")
    for _ in range(2):
        HELD["expected"].advance()


def run(number: int, folder: Path) -> str:
    """Damage a copy in one way, load it."""
    draw = random.Random(number)
    root = folder / "damaged"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(folder / "whole", root, symlinks=True)
    newest = root / "checkpoints" / NEWEST
    kind = draw.choice(list(KINDS))
    named = KINDS[kind](newest, draw)
    assert named, kind
    with pytest.raises(CheckpointError) as caught:
        verify_checkpoint(newest)
    assert all(word in str(caught.value) for word in named), f"{kind}: {caught.value} does not name {named}"

    victim = SmallRun(root)
    touched: list[str] = []
    scatter = victim.state.scatter
    victim.state.scatter = lambda tensors, full: scatter(tensors, lambda name: (touched.append(name), full(name))[1])  # type: ignore[method-assign, func-returns-value]
    with pytest.raises(CheckpointError):
        victim.load(newest)
    assert not touched, "a tensor was touched"
    said = io.StringIO()
    with redirect_stdout(said):
        assert victim.load() == 2
    assert "warning: " in said.getvalue() and "trying the checkpoint before it" in said.getvalue()
    assert all(word in said.getvalue() for word in named) and BEFORE in said.getvalue()
    assert victim.sums() == HELD["expected"].sums(), "something else was loaded"
    return kind


def place_of(path: Path, offset: int) -> list[str]:
    """What a message about the byte at `offset` must name: the file, and the tensor if the byte belongs to one."""
    named = [str(path)]
    if path.suffix == ".safetensors":
        data = path.read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        for name, entry in json.loads(data[8:start]).items():
            begin, end = entry["data_offsets"]
            named += [repr(name)] if start + begin <= offset < start + end else []
    return named


def flip(newest: Path, draw: random.Random) -> list[str]:
    """One bit, anywhere in any file."""
    path = newest / draw.choice(FILES)
    data = bytearray(path.read_bytes())
    offset = draw.randrange(len(data))
    named = place_of(path, offset)
    data[offset] ^= 1 << draw.randrange(8)
    path.write_bytes(data)
    return named


def cut(newest: Path, draw: random.Random) -> list[str]:
    """The end of a file is gone."""
    path = newest / draw.choice(FILES)
    size = draw.randrange(path.stat().st_size)
    named = place_of(path, size)
    os.truncate(path, size)
    return named


def zeros(newest: Path, draw: random.Random) -> list[str]:
    """A block of a file was never written."""
    path = newest / draw.choice(FILES[:3])
    data = bytearray(path.read_bytes())
    offset = draw.randrange(len(data) - 64)
    if not any(data[offset : offset + 64]):
        data[offset] = 1
    else:
        data[offset : offset + 64] = bytes(64)
    path.write_bytes(data)
    return [str(path)]


def longer(newest: Path, draw: random.Random) -> list[str]:
    """Bytes after the end."""
    path = newest / draw.choice(FILES)
    path.write_bytes(path.read_bytes() + draw.randbytes(draw.randrange(1, 9)))
    return [str(path)]


def gone(newest: Path, draw: random.Random) -> list[str]:
    """A file is missing."""
    path = newest / draw.choice(FILES)
    path.unlink()
    return [str(path)]


def extra(newest: Path, draw: random.Random) -> list[str]:
    """A file that nobody wrote."""
    path = newest / draw.choice(("pytorch_model.bin", "extra.safetensors", ".hidden", "model.safetensors.bak"))
    path.write_bytes(draw.randbytes(8))
    return [str(path)]


def swapped(newest: Path, draw: random.Random) -> list[str]:
    """Two files under each other's names."""
    one, two = draw.sample(FILES[:5], 2)
    os.replace(newest / one, newest / "aside")
    os.replace(newest / two, newest / one)
    os.replace(newest / "aside", newest / two)
    return [str(newest)]


def older(newest: Path, draw: random.Random) -> list[str]:
    """A file of another step in the place of this one's."""
    name = draw.choice(FILES[:4])
    shutil.copy(newest.with_name(BEFORE) / name, newest / name)
    return [str(newest / name)]


def older_manifest(newest: Path, draw: random.Random) -> list[str]:
    """The manifest of another step."""
    shutil.copy(newest.with_name(BEFORE) / "manifest.json", newest)
    return [str(newest)]


def renamed(newest: Path, draw: random.Random) -> list[str]:
    """Another step, whole and intact, under this one's name."""
    shutil.rmtree(newest)
    shutil.copytree(newest.with_name(draw.choice((BEFORE, "step-00000001"))), newest)
    return [str(newest / "state.json"), "step 3"]


def linked(newest: Path, draw: random.Random) -> list[str]:
    """A link in the place of a file, even to the same content."""
    path = newest / draw.choice(FILES)
    target = path.rename(newest.parent.parent / "elsewhere")
    path.symlink_to(target)
    return [str(path)]


def pipe(newest: Path, draw: random.Random) -> list[str]:
    """A pipe in the place of a file: reading it would never end."""
    path = newest / draw.choice(FILES)
    path.unlink()
    os.mkfifo(path)
    return [str(path)]


KINDS: dict[str, Callable[[Path, random.Random], list[str]]] = {
    # Twice as many of these: they are what disks do.
    "flip": flip,
    "flip more": flip,
    "cut": cut,
    "zeros": zeros,
    "longer": longer,
    "gone": gone,
    "extra": extra,
    "swapped": swapped,
    "older": older,
    "older manifest": older_manifest,
    "renamed": renamed,
    "linked": linked,
    "pipe": pipe,
}
