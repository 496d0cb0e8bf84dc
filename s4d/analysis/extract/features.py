"""Features of samples from a classifier's encoder.

Letters: n samples, V views, T tokens of a view, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from s4d.analysis.extract.samples import SampleViews
from s4d.data.input_recipe import InputRecipe
from s4d.inference.packed_views import pack_views
from s4d.models.classifier import ClassifierOutput, FinetuneModel
from s4d.models.trained import TrainedModel

# Views in one forward; those of images have a fraction of the tokens.
VIEWS = {"image": 32, "video": 8}


def samples_per_forward(recipe: InputRecipe, views: int) -> int:
    """Samples of `views` views that are looked at together."""
    return max(1, VIEWS[recipe.modality] // views)


def features_of(
    trained: TrainedModel, recipe: InputRecipe, samples: list[SampleViews], kind: str
) -> NDArray[np.float32]:
    """`pooled`: what the heads see, mean over views, (n, D). `tokens`: output of the last block, (n, T, D), one view.

    The heads see the mean over tokens behind one more norm (`fc_norm`).
    """
    views = [view for sample in samples for view in sample.pixels.numpy()]
    keys = [key for sample in samples for key in sample.noise_keys]
    batch = pack_views(views, keys, modality=recipe.modality, arch=trained.arch, seed=recipe.seed)
    device = next(trained.module.parameters()).device
    with torch.inference_mode(), last_block(trained.module) as tokens:
        output: ClassifierOutput = trained.module(batch.to(device))
    if kind == "tokens":
        kept: NDArray[np.float32] = tokens[0].view(len(samples), -1, tokens[0].shape[1]).float().cpu().numpy()
        return kept
    pooled = output.features.float().cpu().numpy().reshape(len(samples), -1, output.features.shape[1])
    return np.asarray(pooled.mean(1), dtype=np.float32)


@contextmanager
def last_block(module: FinetuneModel) -> Iterator[list[Tensor]]:
    """The output (tokens, D) of the encoder's last block in every forward inside the block."""
    seen: list[Tensor] = []
    handle = module.blocks[-1].register_forward_hook(lambda _module, _inputs, output: seen.append(output[0]))
    try:
        yield seen
    finally:
        handle.remove()
