"""Reordered clips on planted cases: brightness that rises or falls, and brightness alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from s4d.config import Config
from s4d.data.batch import PackedBatch
from s4d.data.manifest import ManifestRow
from s4d.data.manifest_io import Manifest, fingerprint, write_manifest
from s4d.models.classifier import ClassifierOutput
from s4d.tasks.dynamics import ORDERS, clip_dynamics
from s4d.tasks.evaluate import Evaluator

CLIPS = 24
FRAMES = 8
# Not evenly spaced, so that no frame is the mean of its clip.
LEVELS = np.array([20, 30, 45, 65, 90, 120, 160, 210])


@pytest.fixture(scope="module")
def ramps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of grey frames: `rising` ones and the same frames backwards, `falling`."""
    root = tmp_path_factory.mktemp("ramps")
    classes = ("rising", "falling")
    for name, modality in (("clips", "frames"), ("faces", "image")):
        rows = []
        for number in range(CLIPS):
            label = classes[number % 2]
            path = f"{name}{number}" if modality == "frames" else f"{name}{number}.png"
            levels = LEVELS if label == "rising" else LEVELS[::-1]
            files = [root / path / f"{i}.png" for i in range(FRAMES)] if modality == "frames" else [root / path]
            for file, level in zip(files, levels, strict=False):
                file.parent.mkdir(exist_ok=True)
                Image.fromarray(np.full((32, 32, 3), level, dtype=np.uint8)).save(file)
            rows.append(
                ManifestRow(sample_id=path, path=path, kind=modality, dataset=name, split="test", label=label)  # type: ignore[arg-type]
            )
        table = Manifest(
            rows=tuple(rows), root=root, dataset=name, classes=classes, fingerprint=fingerprint(rows, classes)
        )
        write_manifest(table, root / f"{name}.csv")
    return root


class OfBrightness(nn.Module):
    """Two logits from the mean brightness of each frame, weighted by `weights` (F,)."""

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, batch: PackedBatch) -> ClassifierOutput:
        levels = batch.groups[0].pixels.double().mean((2, 3, 4))
        logits = torch.stack((levels @ self.weights, torch.zeros(len(levels), dtype=torch.float64)), 1)
        return ClassifierOutput({"clips": logits}, logits, ())


@pytest.fixture
def evaluator(ramps: Path, config_of: Callable[..., Config]) -> Evaluator:
    config = config_of(manifests=ramps, evaluation={"temporal_views": 1}, model={"num_frames": FRAMES})
    return Evaluator(config, rank=0, world_size=1, device=torch.device("cpu"))


def test_a_model_of_order_loses(evaluator: Evaluator) -> None:
    module = OfBrightness(torch.linspace(-1, 1, FRAMES, dtype=torch.float64))
    kept = evaluator.reordered(module, "test", "clips", "kept")
    assert kept.scores.uar == 1.0
    effects = {effect.frame_order: effect for effect in clip_dynamics(evaluator, module, kept)}
    assert tuple(effects) == ORDERS == ("shuffled", "reversed", "frozen")
    # Backwards every rising clip falls. A still has no direction: both logits are 0, and the first class is taken.
    assert effects["reversed"].scores.uar == 0.0 and effects["reversed"].drop.uar.value == 1.0
    assert effects["frozen"].scores.recall == (1.0, 0.0) and effects["frozen"].drop.uar.value == 0.5
    shuffled = effects["shuffled"]
    assert 0.2 < shuffled.scores.uar < 0.8
    assert shuffled.drop.uar.value == pytest.approx(1 - shuffled.scores.uar)
    assert 0 < shuffled.drop.uar.low < shuffled.drop.uar.value < shuffled.drop.uar.high
    assert shuffled.to_dict()["drop"]["uar"]["value"] == shuffled.drop.uar.value


def test_a_model_of_frames_keeps_its_logits(evaluator: Evaluator) -> None:
    module = OfBrightness(torch.ones(FRAMES, dtype=torch.float64) / FRAMES)
    kept = evaluator.reordered(module, "test", "clips", "kept")
    for order in ("shuffled", "reversed"):
        changed = evaluator.reordered(module, "test", "clips", order)
        np.testing.assert_allclose(changed.logits, kept.logits, rtol=1e-12)
    assert not np.allclose(evaluator.reordered(module, "test", "clips", "frozen").logits, kept.logits)
    effects = {effect.frame_order: effect.drop.uar for effect in clip_dynamics(evaluator, module, kept)}
    assert all(effects[order].value == effects[order].high == 0 for order in ("shuffled", "reversed"))
