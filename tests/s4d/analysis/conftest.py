"""A made-up demonstration: three run folders with every file that a report reads."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from s4d.analysis.report import write_report

CLASSES = {
    "affectnet": ["neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger"],
    "dfew": ["happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear"],
}
MODALITY = {"affectnet": "image", "dfew": "video"}
STEPS = range(5, 405, 5)


def write_metrics(path: Path, parts: tuple[str, ...], rng: np.random.Generator) -> None:
    lines = []
    for step in STEPS:
        loss = 0.4 + math.exp(-step / 120) + 0.05 * rng.standard_normal()
        values = {f"loss/{part}": loss * (1 + 0.2 * index) for index, part in enumerate(parts)}
        times = {"time/step": 0.8 + 0.05 * rng.random(), "time/data": 0.12, "time/samples_per_second": 58.0}
        rate = 1e-3 * min(1, step / 40) * (1 + math.cos(math.pi * step / 400)) / 2
        record = {"step": step, "loss": loss, **values, "lr": rate, "grad_norm": 1 + rng.random(), "skipped": 0}
        lines.append(json.dumps({**record, **times}))
    path.write_text("\n".join(lines) + "\n")


def write_scores(path: Path, skill: float, rng: np.random.Generator) -> None:
    sources = {}
    for name, classes in CLASSES.items():
        shares = np.full((7, 7), (1 - skill) / 6) + np.eye(7) * (skill - (1 - skill) / 6)
        confusion = np.array([rng.multinomial(40, row) for row in shares])
        recall = np.diag(confusion) / confusion.sum(1)
        entry = {
            "modality": MODALITY[name],
            "split": "test",
            "samples": int(confusion.sum()),
            "uar": float(recall.mean()),
            "war": float(np.trace(confusion) / confusion.sum()),
            "macro_f1": float(recall.mean()) - 0.01,
            "classes": classes,
            "recall": recall.tolist(),
            "confusion": confusion.tolist(),
        }
        if name == "dfew":
            entry |= {"best_frame_uar": skill - 0.15, "frame_uar": [skill - 0.3 + 0.02 * place for place in range(8)]}
        sources[name] = entry
    path.write_text(json.dumps({"sources": sources}))


def write_routing(path: Path, rng: np.random.Generator) -> None:
    sources = {
        name: {"modality": MODALITY[name], "classes": classes, "counts": rng.integers(50, 900, (3, 7, 4)).tolist()}
        for name, classes in CLASSES.items()
    }
    path.write_text(json.dumps({"layers": [3, 4, 5], "num_experts": 4, "top_k": 2, "sources": sources}))


def write_reconstructions(path: Path, rng: np.random.Generator) -> None:
    arrays = {}
    for modality, frames, samples in (("image", 1, 6), ("video", 8, 2)):
        y, x = np.mgrid[0:96, 0:96]
        face = np.hypot(y - 48, (x - 48) * 1.25) < 40
        base = np.where(face[..., None], [210, 160, 130], [60, 80, 110])
        pixels = np.clip(base + rng.normal(0, 6, (samples, frames, 96, 96, 3)), 0, 255).astype(np.uint8)
        visible = np.repeat(np.repeat(rng.random((samples, frames, 6, 6)) < 0.2, 16, axis=2), 16, axis=3)[..., None]
        arrays[f"{modality}_input"] = pixels
        arrays[f"{modality}_masked"] = np.where(visible, pixels, 127).astype(np.uint8)
        arrays[f"{modality}_prediction"] = np.where(visible, pixels, base).astype(np.uint8)
    np.savez(path, **arrays)


@pytest.fixture
def demo_folder(tmp_path: Path) -> Path:
    """Folder `demo` with the runs pretrain, finetune and scratch, for one test to change."""
    return make_up(tmp_path / "demo")


@pytest.fixture(scope="session")
def untouched_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for tests that only read it."""
    return make_up(tmp_path_factory.mktemp("shared") / "demo")


@pytest.fixture(scope="session")
def demo_report(untouched_demo: Path) -> tuple[Path, dict[str, object]]:
    """Page and numbers of the report on `untouched_demo`."""
    return write_report(untouched_demo)


def make_up(root: Path) -> Path:
    rng = np.random.default_rng(3)
    for name, task, skill in (
        ("pretrain", "pretrain", 0.0),
        ("finetune", "finetune", 0.62),
        ("scratch", "finetune", 0.4),
    ):
        folder = root / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(f"name: {name}\ntask: {task}\nseed: 0\n")
        (folder / "env.json").write_text(json.dumps({"torch": "2.13.0", "cores": 2}))
        write_metrics(folder / "metrics.jsonl", ("image", "video"), rng)
        if task == "pretrain":
            write_reconstructions(folder / "reconstructions.npz", rng)
        else:
            write_scores(folder / "evaluation.json", skill, rng)
            write_routing(folder / "routing.json", rng)
    return root
