"""What is written whole is on the disk: the file first, then its name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from s4d.atomic_files import flush
from s4d.models.folder import write_folder


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Paths of what is forced to the disk, in order."""
    paths: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: paths.append(Path(os.readlink(f"/proc/self/fd/{descriptor}"))))
    return paths


def test_files_and_folders(tmp_path: Path, flushed: list[Path]) -> None:
    (tmp_path / "a").touch()
    before = len(os.listdir("/proc/self/fd"))
    flush(tmp_path / "a")
    flush(tmp_path)
    assert flushed == [tmp_path / "a", tmp_path]
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_model_folder_is_on_the_disk_before_and_after_it_is_renamed(tmp_path: Path, flushed: list[Path]) -> None:
    write_folder(tmp_path / "model", {"a": torch.zeros(1)}, {})
    assert [path.name for path in flushed[:3]] == ["model.safetensors", "config.json", "manifest.json"]
    assert flushed[3].parent == tmp_path and flushed[4:] == [tmp_path]
