"""Depth of parameters for layer-wise learning-rate decay: 0 the patch embedding, i + 1 block i, then norm and heads."""

from __future__ import annotations


def encoder_layer(name: str, depth: int) -> int:
    """Depth of an encoder parameter given by its name inside the encoder; `depth` is the number of blocks."""
    parts = name.split(".")
    if parts[0] == "patch_embed":
        return 0
    if parts[0] == "blocks":
        return int(parts[1]) + 1
    return depth + 1
