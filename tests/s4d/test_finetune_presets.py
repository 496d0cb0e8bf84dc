"""The fine-tuning presets: what they say about their data, and one step of each on miniatures."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from s4d.config import Config, load
from s4d.data.loader import build_batches
from s4d.data.manifest import ManifestRow
from s4d.data.manifest_io import Manifest, fingerprint, write_manifest
from s4d.datasets import CLASS_NAMES
from s4d.datasets.published import PUBLISHED
from s4d.tasks import build_task

FOLDER = Path(__file__).parents[2] / "configs/finetune"
CLIPS = {"dfew": 1, "ferv39k": None, "mafw": 1}
PRESETS = [f"{recipe}_vit_base_{dataset}_affectnet7" for dataset in CLIPS for recipe in ("release", "s4d")]
TINY = (
    "model.size=tiny",
    "model.embed_dim=32",
    "model.depth=2",
    "model.num_heads=2",
    "model.image_size=32",
    "model.num_frames=4",
    "model.init_from=null",
    "model.moae.num_experts=2",
    "model.moae.first_layer=1",
    "data.workers=0",
    "data.image.resize_to=40",
    "data.video.resize_to=40",
    "engine.precision=fp32",
)


def dataset_of(preset: str) -> str:
    return preset.split("_")[3]


def test_every_preset_is_tested() -> None:
    others = {"demo", "own", "own_base"}
    assert sorted(PRESETS) == sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem not in others)


@pytest.mark.parametrize("preset", PRESETS)
def test_heads_are_in_the_order_of_the_release(preset: str) -> None:
    images, clips = load(FOLDER / f"{preset}.yaml").data.sources
    dataset = dataset_of(preset)
    assert (images.name, clips.name, clips.manifest) == ("affectnet", dataset, f"manifests/{dataset}.parquet")
    assert images.classes is not None and tuple(images.classes) == CLASS_NAMES["affectnet"]
    assert clips.classes is not None and tuple(clips.classes) == CLASS_NAMES[dataset]
    assert (clips.fold, clips.stride) == (CLIPS[dataset], 1 if dataset == "ferv39k" else 4)


@pytest.mark.parametrize("preset", PRESETS)
def test_an_epoch_of_clips_is_the_published_one(preset: str) -> None:
    """Steps between evaluations: one epoch, in which the release has image steps of their own."""
    config = load(FOLDER / f"{preset}.yaml")
    dataset = dataset_of(preset)
    count = next(entry for entry in PUBLISHED[dataset] if (entry.split, entry.fold) == ("train", CLIPS[dataset]))
    steps = count.total // config.batch.per_step[dataset]
    assert config.engine.eval_every == steps + (156 if config.recipe == "release" else 0)
    assert (config.engine.epochs, config.optim.lr, config.optim.layer_decay) == (100, 4e-5, 0.75)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_ranks_get_whole_pairs(preset: str, world_size: int) -> None:
    for quota in load(FOLDER / f"{preset}.yaml").batch.per_step.values():
        assert quota % (2 * world_size) == 0


@pytest.mark.parametrize("preset", PRESETS)
def test_the_opening_says_where_all_inputs_come_from(preset: str) -> None:
    path = FOLDER / f"{preset}.yaml"
    opening = path.read_text().partition("\n\n")[0]
    config = load(path)
    for source in config.data.sources:
        assert f"s4d data prepare {source.name} FOLDER --out {source.manifest}" in opening
    if config.recipe == "release":
        assert f"s4d checkpoint import FILE --out {config.model.init_from}" in opening
    else:
        pretraining = next(word for word in opening.split() if word.startswith("configs/pretrain/")).rstrip(".")
        assert load(FOLDER.parents[1] / pretraining).run_dir == config.model.init_from


def picture(number: int) -> bytes:
    small = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(small).resize((36, 32)).save(stream, "JPEG")
    return stream.getvalue()


def write_miniature(root: Path, dataset: str, fold: int | None) -> Path:
    """Two training samples and a test sample of each class."""
    rows = []
    for number, label in enumerate(CLASS_NAMES[dataset] * 3):
        name = f"{dataset}/{number:05d}" + (".jpg" if dataset == "affectnet" else "")
        files = [root / name] if dataset == "affectnet" else [root / name / f"{frame}.jpg" for frame in range(1, 8)]
        for frame, path in enumerate(files):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(number + frame))
        rows.append(
            ManifestRow(
                sample_id=name,
                path=name,
                kind="image" if dataset == "affectnet" else "frames",
                dataset=dataset,
                split="test" if number >= 2 * len(CLASS_NAMES[dataset]) else "train",
                label=label,
                fold=fold,
            )
        )
    classes = CLASS_NAMES[dataset]
    manifest = Manifest(
        rows=tuple(rows), root=root, dataset=dataset, classes=classes, fingerprint=fingerprint(rows, classes)
    )
    write_manifest(manifest, root / f"{dataset}.csv")
    return root / f"{dataset}.csv"


@pytest.mark.parametrize("preset", PRESETS)
def test_one_step(preset: str, tmp_path: Path) -> None:
    dataset = dataset_of(preset)
    images = write_miniature(tmp_path, "affectnet", None)
    clips = write_miniature(tmp_path, dataset, CLIPS[dataset])
    config: Config = load(
        FOLDER / f"{preset}.yaml",
        [
            *TINY,
            f"data.sources.0.manifest={images}",
            f"data.sources.1.manifest={clips}",
            f"batch.per_step={{affectnet: 4, {dataset}: 2}}",
        ],
    )
    task = build_task(config, rank=0, world_size=1, device=torch.device("cpu"))
    batches = build_batches(config, rank=0, world_size=1)
    steps = batches.steps(0)
    seen: set[str] = set()
    while seen != {"affectnet", dataset}:
        micro_batches = next(steps)
        statistics = task.begin_step(task.module, micro_batches)
        for batch in micro_batches:
            seen |= {head.head for head in batch.heads}
            output = task.forward(task.module, batch, statistics)
            output.loss.backward()
            assert math.isfinite(output.loss.item())
    batches.close()
    assert all(parameter.grad is not None for parameter in task.module.parameters())
