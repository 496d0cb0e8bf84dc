"""A tiny fine-tuning run with random weights, and made-up pictures of one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from s4d.analysis.pictures.record import Drawn, FeatureMap, Pictures, SourcePictures
from s4d.config import Config, save
from s4d.models.folder import write_folder
from s4d.tasks import build_task

sys.path.append(str(Path(__file__).resolve().parents[3] / "engine"))

from engine_project import run_values, write_media

CLASSES = ("happiness", "sadness", "fear")


@pytest.fixture
def tiny_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run over three test stills and three test clips of 32 pixels, with a checkpoint of random weights."""

    def make(name: str = "run", task: str = "finetune", only: str | None = None, **values: object) -> Path:
        write_media(tmp_path)
        run = tmp_path / name
        merged = run_values(tmp_path, run, task) | values
        if only is not None:
            merged["data"]["sources"] = [source for source in merged["data"]["sources"] if source["name"] == only]
            merged["batch"] = {"per_step": {only: 4}}
        merged["model"] = merged["model"] | {"moae": {"num_experts": 4, "top_k": 2, "zero_init": False}}
        config = Config.model_validate(merged)
        run.mkdir()
        save(config, run / "config.yaml")
        built = build_task(config, rank=0, world_size=1, device=torch.device("cpu"))
        write_folder(run / "checkpoints" / "step-00000005", built.module.state_dict(), built.describe())
        (run / "checkpoints" / "latest").write_text("step-00000005\n")
        return run

    return make


def make_source(modality: str = "video", layers: tuple[int, ...] = (1, 2), drawn: int = 2) -> SourcePictures:
    """Two by two patches of 8 pixels; clips have two slices of two frames."""
    rng = np.random.default_rng(1)
    slices, frames = (1, 1) if modality == "image" else (2, 4)
    relevance = rng.random((drawn, slices, 2, 2))
    probabilities = rng.dirichlet(np.ones(3), drawn)
    return SourcePictures(
        source="faces" if modality == "image" else "clips",
        modality=modality,
        classes=CLASSES,
        samples=12,
        unreadable=1,
        layers=layers,
        drawn=tuple(
            Drawn(sample_id=f"{number}", label="fear", prediction=CLASSES[row.argmax()], rule="surest right")
            for number, row in enumerate(probabilities)
        ),
        probabilities=probabilities.astype(np.float32),
        frames=rng.integers(0, 256, (drawn, frames, 16, 16, 3), dtype=np.uint8),
        relevance=(relevance / relevance.sum((1, 2, 3), keepdims=True)).astype(np.float32),
        slice_probabilities=rng.dirichlet(np.ones(3), (drawn, slices)).astype(np.float32),
        experts=rng.integers(0, 4, (drawn, len(layers), slices, 2, 2)).astype(np.int16),
        expert_counts=rng.integers(0, 9, (len(layers), 2, 2, 4 if layers else 0)),
    )


def make_features(count: int = 20) -> FeatureMap:
    rng = np.random.default_rng(2)
    return FeatureMap(
        points=rng.normal(size=(count, 2)).astype(np.float32),
        labels=np.arange(count) % 3,
        modalities=np.arange(count) % 2,
        classes=CLASSES,
        perplexity=6.0,
        dim=32,
        numbers={
            "neighbours": 10.0,
            "same_class": 0.6,
            "same_class_chance": 0.3,
            "other_modality": 0.4,
            "other_modality_chance": 0.5,
            "same_class_across": 0.5,
            "same_class_across_chance": 0.33,
            "silhouette": 0.1,
        },
    )


@pytest.fixture
def source_of() -> Callable[..., SourcePictures]:
    return make_source


@pytest.fixture
def features_of() -> Callable[..., FeatureMap]:
    return make_features


@pytest.fixture
def made_up() -> Pictures:
    sources = (make_source("image"), make_source("video"))
    return Pictures(checkpoint="step-00000005", sources=sources, features=make_features())
