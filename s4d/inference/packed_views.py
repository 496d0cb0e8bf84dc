"""Views of one modality as a packed batch without labels, as `s4d.data.packing` packs those of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from kernels.philox import layer_key
from s4d.data.batch import MODALITIES, PackedBatch, PixelGroup
from s4d.models.sizes import Architecture


def pack_views(
    pixels: Sequence[NDArray[np.uint8]], noise_keys: Sequence[int], *, modality: str, arch: Architecture, seed: int
) -> PackedBatch:
    """One batch of views (F, S, S, 3) of a modality; `noise_keys` and `seed` key the router noise."""
    count, length = len(pixels), arch.tokens(modality)
    borders = torch.arange(0, (count + 1) * length, length, dtype=torch.int32)
    layout = ((count, length),)
    group = PixelGroup(pixels=torch.from_numpy(np.stack(pixels)), modality=modality, sample_ids=("",) * count)
    return PackedBatch(
        groups=(group,),
        cu_seqlens=borders,
        max_seqlen=length,
        layout=layout,
        visible_indices=torch.arange(count * length),
        masked_indices=torch.empty(0, dtype=torch.int64),
        cu_seqlens_visible=borders,
        max_seqlen_visible=length,
        layout_visible=layout,
        positions=torch.arange(length).repeat(count),
        modality=torch.full((count,), MODALITIES.index(modality)),
        heads=(),
        step_samples={modality: count},
        noise_keys=torch.tensor(noise_keys, dtype=torch.int64),
        layer_keys=torch.tensor([layer_key(seed, 0, layer) for layer in range(arch.depth)]),
    )
