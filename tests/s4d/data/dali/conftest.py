"""VP9 clips, which DALI decodes without a GPU, beside the images and frame folders of the other data tests."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from s4d.config import Config
from s4d.data.manifest import ManifestRow
from s4d.data.manifest_io import Manifest, write_manifest

FRAMES = 14


@pytest.fixture(scope="session")
def vp9_tree(tmp_path_factory: pytest.TempPathFactory, media_tree: Path, write_vp9: Callable[..., Path]) -> Path:
    """The 17 train images of `media_tree` and 6 VP9 clips, with images.csv and vp9.csv."""
    root = tmp_path_factory.mktemp("vp9")
    shutil.copytree(media_tree / "images", root / "images")
    (root / "images.csv").write_text((media_tree / "images.csv").read_text().replace(str(media_tree), str(root)))
    rows = []
    for number in range(6):
        noise = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        still = noise.repeat(8, axis=0).repeat(8, axis=1)
        write_vp9(root / f"vp9/w{number}.webm", [np.roll(still, 2 * i, axis=1) for i in range(FRAMES + number)])
        rows.append(
            ManifestRow(sample_id=f"w{number}", path=f"vp9/w{number}.webm", kind="video", dataset="made", split="train")
        )
    write_manifest(Manifest(rows=tuple(rows), root=root, dataset="vp9", classes=(), fingerprint=""), root / "vp9.csv")
    return root


@pytest.fixture
def vp9_config(vp9_tree: Path) -> Callable[..., Config]:
    """Pre-training on images and two views of each VP9 clip; keyword arguments replace fields of `data`."""

    def make(root: Path = vp9_tree, steps: int = 4, **data: object) -> Config:
        sources = [
            {"name": "clips", "modality": "video", "manifest": str(root / "vp9.csv"), "views": 2, "stride": 2},
            {"name": "images", "modality": "image", "manifest": str(root / "images.csv")},
        ]
        values = {
            "name": "made",
            "run_dir": "runs/made",
            "task": "pretrain",
            "model": {"size": "tiny", "image_size": 32, "num_frames": 4},
            "data": {"sources": sources, "workers": 0, "backend": "dali", **data},
            "batch": {"per_step": {"clips": 4, "images": 6}},
            "optim": {"lr": 1e-3},
            "engine": {"steps": steps},
        }
        return Config.model_validate(values)

    return make
