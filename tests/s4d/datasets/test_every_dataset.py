"""Every dataset in every form on disk: miniature, manifest, validation, a step of training on what it lists."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch
from tree_case import Tree, ids
from trees import TREES

from s4d.config import Config
from s4d.data.loader import build_batches
from s4d.data.manifest import Kind
from s4d.data.manifest_io import Manifest, prepare_manifest, read_manifest
from s4d.data.scan.probe import probe_medium
from s4d.data.scan.record import Probe
from s4d.data.validate.run import validate_manifest
from s4d.datasets import CLASS_NAMES, DATASETS
from s4d.tasks import build_task

MODEL = {
    "size": "tiny",
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "decoder_embed_dim": 16,
    "decoder_depth": 1,
    "decoder_num_heads": 1,
    "image_size": 32,
    "num_frames": 4,
    "moae": {"num_experts": 2, "first_layer": 1},
}


def test_every_dataset_has_a_miniature() -> None:
    assert {tree.dataset for tree in TREES} == set(DATASETS) == set(CLASS_NAMES)


def run_on(manifest: Path, read: Manifest, fold: int | None) -> Config:
    """One step on the train split; pre-training where there are no labels or no test split."""
    labelled = bool(read.classes) and any(row.split == "test" for row in read.rows)
    kinds = {row.kind for row in read.rows}
    modality = "image" if kinds == {"image"} else "video"
    source = {"name": "made", "modality": modality, "manifest": str(manifest), "stride": 1, "fold": fold}
    return Config.model_validate(
        {
            "name": "made",
            "run_dir": "runs/made",
            "task": "finetune" if labelled else "pretrain",
            "model": MODEL,
            "data": {"sources": [source], "workers": 0},
            "batch": {"per_step": {"made": 2}},
            "optim": {"lr": 1e-3},
            "engine": {"steps": 1, "precision": "fp32"},
        }
    )


def probe_here(root: Path, media: Iterable[tuple[str, Kind]], workers: int) -> Iterator[Probe]:
    return (probe_medium(root, path, kind, quick=False) for path, kind in media)


@pytest.mark.parametrize("tree", TREES, ids=ids(TREES))
def test_from_disk_to_a_step_of_training(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.build(tmp_path / "data")
    written = prepare_manifest(tree.dataset, tmp_path / "data", tmp_path / "made.csv")
    prepare_manifest(tree.dataset, tmp_path / "data", tmp_path / "made.parquet")
    manifest = read_manifest(tmp_path / "made.csv")
    assert manifest == written == read_manifest(tmp_path / "made.parquet")
    assert len(manifest.rows) == tree.rows
    assert all((manifest.root / row.path).exists() and not Path(row.path).is_absolute() for row in manifest.rows)
    if CLASS_NAMES[tree.dataset]:
        assert manifest.classes == CLASS_NAMES[tree.dataset]
    assert {row.label for row in manifest.rows if row.label is not None} == set(manifest.classes)

    # Decoded here: the processes that do it for users have tests of their own.
    monkeypatch.setattr("s4d.data.validate.run.probe_all", probe_here)
    findings = validate_manifest(tmp_path / "made.csv", workers=1)
    assert findings.errors == ()
    assert findings.looked_at.startswith("no scan file given: all")
    assert set(tree.warns) <= {finding.code for finding in findings.items if finding.severity == "warning"}

    config = run_on(tmp_path / "made.parquet", manifest, tree.fold)
    task = build_task(config, rank=0, world_size=1, device=torch.device("cpu"))
    batches = build_batches(config, rank=0, world_size=1)
    (micro_batches,) = batches.steps(0)
    batches.close()
    statistics = task.begin_step(task.module, micro_batches)
    for batch in micro_batches:
        output = task.forward(task.module, batch, statistics)
        output.loss.backward()
        assert math.isfinite(output.loss.item())
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in task.module.parameters())


@pytest.mark.parametrize("tree", [tree for tree in TREES if tree.fold], ids=lambda tree: tree.id)
def test_one_fold_is_a_part_of_all(tree: Tree, tmp_path: Path) -> None:
    tree.build(tmp_path / "data")
    everything = prepare_manifest(tree.dataset, tmp_path / "data", tmp_path / "all.csv")
    second = prepare_manifest(tree.dataset, tmp_path / "data", tmp_path / "second.csv", 2)
    assert second.rows == tuple(row for row in everything.rows if row.fold == 2)
    assert Counter(row.fold for row in everything.rows) == {1: tree.rows // 2, 2: tree.rows // 2}
