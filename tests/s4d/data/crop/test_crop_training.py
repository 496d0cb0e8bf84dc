"""Crops of images, frame folders and videos go into a training step like any other media."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from s4d.config import Config
from s4d.data.crop.finders import open_annotations
from s4d.data.crop.recipe import CropRecipe
from s4d.data.crop.run import crop_manifest
from s4d.data.loader import build_batches
from s4d.data.manifest_io import read_manifest, write_manifest
from s4d.tasks import build_task


def test_crops_are_trained_on(dataset: Path, tmp_path: Path) -> None:
    recipe = CropRecipe(size=48)
    crop_manifest(dataset / "media.csv", tmp_path / "out", recipe, open_annotations(dataset / "faces.csv"))
    crops = read_manifest(tmp_path / "out/manifest.csv")
    for name, still in (("images", True), ("clips", False)):
        rows = tuple(row for row in crops.rows if (row.kind == "image") == still)
        write_manifest(replace(crops, rows=rows), tmp_path / f"{name}.csv")
    config = Config.model_validate(
        {
            "name": "crops",
            "run_dir": str(tmp_path / "run"),
            "task": "pretrain",
            "model": {"size": "tiny", "embed_dim": 32, "depth": 1, "num_heads": 1, "image_size": 32, "num_frames": 4}
            | {"decoder_embed_dim": 32, "decoder_depth": 1, "decoder_num_heads": 1},
            "data": {
                "workers": 0,
                "mask_ratio": {"image": 0.5, "video": 0.5},
                "sources": [
                    {"name": "images", "modality": "image", "manifest": str(tmp_path / "images.csv")},
                    {"name": "clips", "modality": "video", "manifest": str(tmp_path / "clips.csv"), "stride": 2},
                ],
            },
            "batch": {"per_step": {"images": 2, "clips": 2}},
            "optim": {"lr": 1e-3},
            "engine": {"steps": 1},
        }
    )
    task = build_task(config, rank=0, world_size=1, device=torch.device("cpu"))
    batches = build_batches(config, rank=0, world_size=1)
    micro_batches = next(iter(batches.steps(0)))
    statistics = task.begin_step(task.module, micro_batches)
    losses = [task.forward(task.module, batch, statistics).loss for batch in micro_batches]
    batches.close()
    assert all(torch.isfinite(loss) for loss in losses)
    assert task.describe()["crop"] == {"images": recipe.recipe_id, "clips": recipe.recipe_id}
