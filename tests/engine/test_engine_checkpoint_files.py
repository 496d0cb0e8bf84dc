"""What is published is whole; what was touched afterwards is found out."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from pathlib import Path

import pytest
import torch

from engine.checkpoint_files import discard, replace_text, verify_checkpoint, write_checkpoint
from engine.errors import CheckpointError, SaveError

TENSORS = {
    "model.safetensors": {"a.weight": torch.arange(600.0).view(20, 30), "a.bias": torch.full((3,), -0.0)},
    "optimizer.safetensors": {"exp_avg/a.weight": torch.randn(20, 30, generator=torch.Generator().manual_seed(0))},
}
RECORDS = {"state.json": {"step": 7}, "config.json": {"stage": "tiny"}}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "step-00000007"
    write_checkpoint(folder, TENSORS, RECORDS)
    return folder


def test_written_checkpoint_verifies_and_leaves_nothing_aside(written: Path) -> None:
    manifest = verify_checkpoint(written)
    assert set(manifest["files"]) == {*TENSORS, *RECORDS}
    assert [path.name for path in written.parent.iterdir()] == [written.name]


def test_every_flipped_bit_is_found(written: Path, tmp_path: Path) -> None:
    draw = random.Random(0)
    files = sorted(path.name for path in written.iterdir())
    for trial in range(120):
        copy = tmp_path / f"{trial}"
        shutil.copytree(written, copy)
        victim = copy / files[trial % len(files)]
        data = bytearray(victim.read_bytes())
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        victim.write_bytes(data)
        with pytest.raises(CheckpointError, match=re.escape(str(victim))):
            verify_checkpoint(copy)


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
def test_missing_and_cut_files_are_named(written: Path, tmp_path: Path, name: str, damage: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(written, copy)
    if damage == "missing":
        (copy / name).unlink()
    else:
        os.truncate(copy / name, 0 if damage == "empty" else (copy / name).stat().st_size - 2)
    with pytest.raises(CheckpointError, match="copy"):
        verify_checkpoint(copy)


def test_tensors_of_another_checkpoint_are_found(written: Path, tmp_path: Path) -> None:
    other, copy = tmp_path / "other", tmp_path / "copy"
    changed = {name: {key: value + 1 for key, value in content.items()} for name, content in TENSORS.items()}
    write_checkpoint(other, changed, RECORDS)
    shutil.copytree(written, copy)
    shutil.copy(other / "model.safetensors", copy)
    with pytest.raises(CheckpointError, match=r"model.safetensors: tensor 'a\.(weight|bias)': checksum differs"):
        verify_checkpoint(copy)


def test_full_disk_names_path_and_space_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", refuse)
    folder = tmp_path / "checkpoints/step-00000001"
    said = r"step-00000001: cannot write the checkpoint: No space left on device; \d+ bytes needed, \d+ bytes .* free"
    with pytest.raises(SaveError, match=said):
        write_checkpoint(folder, TENSORS, RECORDS)
    assert list(folder.parent.iterdir()) == []


def test_order_of_a_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file is flushed before the rename, the parent folder after it."""
    events: list[tuple[str, str]] = []
    real_fsync, real_rename = os.fsync, Path.rename
    monkeypatch.setattr(
        os, "fsync", lambda fd: (events.append(("flush", os.readlink(f"/proc/self/fd/{fd}"))), real_fsync(fd))[1]
    )
    monkeypatch.setattr(Path, "rename", lambda self, to: (events.append(("rename", str(to))), real_rename(self, to))[1])
    folder = tmp_path / "step-00000001"
    write_checkpoint(folder, TENSORS, RECORDS)
    renamed = events.index(("rename", str(folder)))
    before = {Path(path).name for kind, path in events[:renamed] if kind == "flush"}
    assert before >= {*TENSORS, *RECORDS, "manifest.json"}
    assert [path for kind, path in events[renamed + 1 :] if kind == "flush"] == [str(tmp_path)]


def test_small_files_are_replaced_whole(tmp_path: Path) -> None:
    replace_text(tmp_path / "latest", "one\n")
    replace_text(tmp_path / "latest", "two\n")
    assert (tmp_path / "latest").read_text() == "two\n" and len(list(tmp_path.iterdir())) == 1


def test_discarded_folder_is_gone_under_every_name(written: Path, tmp_path: Path) -> None:
    shutil.copytree(written, tmp_path / "step-00000001")
    discard(tmp_path / "step-00000001")
    assert list(tmp_path.iterdir()) == []


def test_unknown_format_is_refused(written: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(written, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(CheckpointError, match="unknown format 99"):
        verify_checkpoint(copy)
