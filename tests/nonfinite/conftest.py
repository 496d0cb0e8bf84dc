"""This folder, and that of the engine's tests whose small project it uses, are on the import path of its tests."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
for folder in (HERE, HERE.parent / "engine"):
    sys.path.insert(0, str(folder))

from engine_project import write_media, write_run  # noqa: E402 (found through the line above)

from s4d.config import load  # noqa: E402
from s4d.data.loader import build_batches  # noqa: E402


@pytest.fixture
def real_batch(tmp_path: Path) -> Any:
    """First micro batch of a small pre-training run."""
    write_media(tmp_path, images=6, clips=6)
    config = load(write_run(tmp_path, "run", "pretrain"), ["data.mask_ratio={image: 0.25, video: 0.5}"])
    return next(iter(build_batches(config, rank=0, world_size=1).steps(0)))[0]
