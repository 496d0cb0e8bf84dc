"""Tasks on tiny models, with hand-made batches or with a few real files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from s4d.config import Config
from s4d.data.manifest import ManifestRow
from s4d.data.manifest_io import Manifest, fingerprint, write_manifest
from s4d.tasks.finetune import FinetuneTask
from s4d.tasks.pretrain import PretrainTask

WEIGHTS = {"image": 0.3, "video": 0.7}
CLASSES = {"faces": ("a", "b", "c"), "clips": ("p", "q", "r", "s")}
MODEL = {
    "embed_dim": 64,
    "depth": 3,
    "num_heads": 2,
    "decoder_embed_dim": 32,
    "decoder_depth": 1,
    "decoder_num_heads": 1,
    "image_size": 32,
    "num_frames": 4,
    "size": "tiny",
}
MOAE = {"num_experts": 4, "zero_init": False, "first_layer": 1}


def make_config(task: str = "finetune", *, manifests: Path = Path("nowhere"), **changes: object) -> Config:
    """A run on sources `faces` and `clips`; `model`, `moae` and `evaluation` are merged into their sections."""
    moae = {**MOAE, **changes.pop("moae", {})}  # type: ignore[dict-item]
    model = {**MODEL, "moae": moae, **changes.pop("model", {})}  # type: ignore[dict-item]
    sources = [
        {"name": "faces", "modality": "image", "manifest": str(manifests / "faces.csv"), "stride": 1},
        {"name": "clips", "modality": "video", "manifest": str(manifests / "clips.csv"), "stride": 1},
    ]
    values: dict[str, object] = {
        "name": "test",
        "run_dir": "runs/test",
        "task": task,
        "model": model,
        "data": {"sources": sources, "workers": 0},
        "batch": {"per_step": {"faces": 2, "clips": 2}},
        "optim": {"lr": 1e-3},
        "engine": {"steps": 4, "precision": "fp32"},
        **changes,
    }
    return Config.model_validate(values)


def make_task(config: Config) -> PretrainTask | FinetuneTask:
    """The task in float64."""
    device = torch.device("cpu")
    task: PretrainTask | FinetuneTask
    if config.task == "pretrain":
        task = PretrainTask(config, WEIGHTS, {}, rank=0, world_size=1, device=device)
    else:
        task = FinetuneTask(config, WEIGHTS, CLASSES, rank=0, world_size=1, device=device)
    task.module.double()
    return task


@pytest.fixture
def config_of() -> Callable[..., Config]:
    return make_config


@pytest.fixture
def task_of() -> Callable[..., PretrainTask | FinetuneTask]:
    def build(task: str = "finetune", **changes: object) -> PretrainTask | FinetuneTask:
        return make_task(make_config(task, **changes))

    return build


@pytest.fixture(scope="session")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten test images and seven test clips of random pixels, two training samples of each, and their manifests."""
    root = tmp_path_factory.mktemp("media")
    rng = np.random.default_rng(0)
    for name, test, kind in (("faces", 10, "image"), ("clips", 7, "frames")):
        rows = []
        for number in range(test + 2):
            split = "test" if number < test else "train"
            path = f"{name}-{number}.png" if kind == "image" else f"{name}-{number}"
            frames = [root / path] if kind == "image" else [root / path / f"{i}.png" for i in range(6)]
            for frame in frames:
                frame.parent.mkdir(exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(frame)
            # The last class of each head has no test sample.
            label = CLASSES[name][number % (len(CLASSES[name]) - 1)]
            sample = f"{name}{number:02d}"
            rows.append(
                ManifestRow(sample_id=sample, path=path, kind=kind, dataset=name, split=split, label=label)  # type: ignore[arg-type]
            )
        manifest = Manifest(
            rows=tuple(rows),
            root=root,
            dataset=name,
            classes=CLASSES[name],
            fingerprint=fingerprint(rows, CLASSES[name]),
        )
        write_manifest(manifest, root / f"{name}.csv")
    return root
