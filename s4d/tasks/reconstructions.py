"""A few samples as the masked autoencoder sees and completes them, for the report.

Letters: T tokens of a group, f frames of a tubelet, p patch size.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kernels.patch.tubelets import TokenGrid, token_grid, unfold_tubelets
from kernels.reconstruction.target import EPS
from s4d.atomic_files import write_atomically
from s4d.config import Config
from s4d.data.evaluation import EvalBatches, build_evaluation
from s4d.errors import DataError
from s4d.models.sizes import Architecture
from s4d.tasks.collective import refuse_together

SAMPLES = {"image": 8, "video": 3}
GREY = 0.5

Rows = dict[str, NDArray[np.uint8]]


class Reconstructor:
    """Runs the first evaluation forward of the first source of each modality; every rank takes part in the forwards."""

    def __init__(self, config: Config, arch: Architecture, *, rank: int, world_size: int, device: torch.device) -> None:
        self.config = config
        self.arch = arch
        self.rank = rank
        self.world_size = world_size
        self.device = device

    def write(self, module: nn.Module, path: Path) -> None:
        """Write `{modality}_input`, `_masked` and `_prediction`, uint8 (n, frames, height, width, 3), on rank 0."""
        arrays: Rows = {}
        training = module.training
        module.eval()
        for modality, name in self._sources().items():
            rows = self._reconstruct(module, self._batches(name), SAMPLES[modality])
            arrays |= {f"{modality}_{kind}": values for kind, values in rows.items()}
        module.train(training)
        if self.rank == 0:
            content = io.BytesIO()
            np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
            write_atomically(path, content.getvalue())

    def _sources(self) -> dict[str, str]:
        first: dict[str, str] = {}
        for source in self.config.data.sources:
            first.setdefault(source.modality, source.name)
        return first

    def _batches(self, name: str) -> EvalBatches:
        """Samples that were not trained on where the manifest has them, else training samples."""
        try:
            return build_evaluation(self.config, "test", name, self.rank, self.world_size)
        except DataError:
            return build_evaluation(self.config, "train", name, self.rank, self.world_size)

    def _reconstruct(self, module: nn.Module, batches: EvalBatches, samples: int) -> Rows:
        item = next(iter(batches))
        refuse_together(batches.refused)
        batch = item.batch.to(self.device)
        with torch.no_grad():
            prediction = module(batch, predict=True)["prediction"].float()
        visible = torch.zeros(prediction.shape[0], dtype=torch.bool, device=self.device)
        visible[batch.visible_indices] = True
        kinds = complete(batch.groups[0].pixels, prediction, visible, self.arch)
        wanted = np.flatnonzero(((item.weights > 0) & (item.views == 0)).numpy())[:samples]
        return {name: to_bytes(values)[wanted] for name, values in kinds.items()}


def complete(pixels: Tensor, prediction: Tensor, visible: Tensor, arch: Architecture) -> dict[str, Tensor]:
    """Input, masked input and completed input, each (n, F, H, W, 3) in [0, 1].

    `pixels` is uint8, `prediction` (T, values) normalised as the target is; it is brought back with the true mean and
    spread of each token and channel, which is what the loss leaves open.
    """
    grid = token_grid(pixels, arch.patch_size, arch.tubelet_size)
    tubelets = unfold_tubelets(pixels.float() / 255, grid)
    frames = grid.frames_per_token
    mean = tubelets.mean((1, 2, 3), keepdim=True)
    repeats = arch.tubelet_size // frames
    count = repeats * frames * arch.patch_size**2
    variance = (tubelets - mean).square().sum((1, 2, 3), keepdim=True) * (repeats / (count - 1))
    shaped = prediction.view(-1, arch.tubelet_size, arch.patch_size, arch.patch_size, 3)
    # The two predicted frames of a still image are two answers to one question.
    shaped = shaped.mean(1, keepdim=True) if frames == 1 else shaped
    filled = shaped * (variance + EPS).sqrt() + mean
    shown = visible[:, None, None, None, None]
    return {
        "input": fold_tubelets(tubelets, grid),
        "masked": fold_tubelets(torch.where(shown, tubelets, GREY), grid),
        "prediction": fold_tubelets(torch.where(shown, tubelets, filled), grid),
    }


def fold_tubelets(tubelets: Tensor, grid: TokenGrid) -> Tensor:
    """Tokens (T, f, p, p, 3) back to frames (n, F, H, W, 3); the inverse of `unfold_tubelets`."""
    f, p = grid.frames_per_token, grid.patch_size
    split = tubelets.view(grid.samples, grid.slices, grid.rows, grid.columns, f, p, p, 3)
    return split.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(grid.samples, grid.frames, grid.height, grid.width, 3)


def to_bytes(values: Tensor) -> NDArray[np.uint8]:
    """Values in [0, 1] as uint8."""
    return (values.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
