"""What heads of imported classifiers take, of which their files say nothing: the recipe of the code they come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from s4d.data.input_recipe import InputRecipe
from s4d.models.sizes import Architecture

# Frames between two of a clip: VideoMAE on Kinetics, S4D on DFEW and MAFW (on FERV39K it takes every frame).
STRIDE = 4


def assumed_inputs(arch: Architecture, modalities: Mapping[str, str], *, released: bool) -> dict[str, Any]:
    """`inputs` of `config.json` for each head; `released` is the recipe of the released S4D."""
    found = {}
    for head, modality in modalities.items():
        image = modality == "image"
        recipe = InputRecipe(
            modality=modality,
            image_size=arch.image_size,
            num_frames=1 if image else arch.num_frames,
            stride=1 if image else STRIDE,
            frame_sampling="release" if released else "window",
            window="full",
            resize="square" if released else "short_side",
            order="lexicographic" if released else "natural",
            temporal_views=1 if image else 2,
            spatial_views=1,
            small_decode=False,
            seed=0,
        )
        found[head] = recipe.to_dict()
    return found


def note_on_inputs(arch: Architecture) -> str:
    """What the user should check."""
    taken = f"clips of {arch.num_frames} frames, {STRIDE} apart"
    return f"assumed, since the file does not say: {taken} (`inputs` in config.json)"
