"""An epoch over a set in which most files are damaged: as long as ever, the same in worker processes and without."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from s4d.config import Config
from s4d.data.loader import build_batches
from s4d.data.manifest import ManifestRow
from s4d.data.manifest_io import Manifest, write_manifest

HERE = Path(__file__).resolve().parent
COUNTS = {"image": 48, "video": 26}


def write_set(folder: Path, kind: str) -> None:
    """Damaged files of one kind, every fourth one whole, and their manifest."""
    fuzz_files, fuzz_bytes = importlib.import_module("fuzz_files"), importlib.import_module("fuzz_bytes")
    fuzz_files.write_whole(folder)
    files = [(name, content) for name, found, content in fuzz_files.whole(folder) if found == kind]
    rows = []
    for number in range(COUNTS[kind]):
        name, content = files[number % len(files)]
        path = folder / f"{number:03d}-{name}"
        draw = np.random.default_rng([5, number])
        path.write_bytes(fuzz_bytes.damaged(content, draw) if number % 4 else content)
        rows.append(
            ManifestRow(sample_id=path.name, path=path.name, kind=kind, dataset=kind, split="train")  # type: ignore[arg-type]
        )
    write_manifest(
        Manifest(rows=tuple(rows), root=folder, dataset=kind, classes=(), fingerprint=""), folder / f"{kind}.csv"
    )


def run(folder: Path, workers: int) -> tuple[list[torch.Tensor], dict[str, int]]:
    """Pixels of all batches of an epoch, and the counts of unreadable samples."""
    sources = [
        {"name": kind, "modality": kind, "manifest": str(folder / f"{kind}.csv"), **({"stride": 1} if views else {})}
        for kind, views in (("image", 0), ("video", 1))
    ]
    config = Config.model_validate(
        {
            "name": "made",
            "run_dir": "runs/made",
            "task": "pretrain",
            "model": {"size": "tiny", "image_size": 32, "num_frames": 4},
            "data": {"sources": sources, "workers": workers, "on_error": "skip"},
            "batch": {"per_step": {"image": 8, "video": 4}},
            "optim": {"lr": 1e-3},
            "engine": {"steps": 6},
        }
    )
    batches = build_batches(config, 0, 1)
    pixels = [group.pixels for step in batches.steps(0) for batch in step for group in batch.groups]
    batches.close()
    return pixels, batches.counters()


def test_most_files_of_an_epoch_may_be_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.syspath_prepend(HERE)
    for kind in COUNTS:
        write_set(tmp_path, kind)
    expected, counted = run(tmp_path, 0)
    assert [tuple(pixels.shape) for pixels in expected] == [(8, 1, 32, 32, 3), (4, 4, 32, 32, 3)] * 6
    assert min(counted.values()) > 3
    named = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert named and all(str(tmp_path) in line and "replaced by the next readable sample" in line for line in named)
    found, counted_too = run(tmp_path, 2)
    assert counted_too == counted
    assert len(found) == len(expected) and all(map(torch.equal, found, expected))
