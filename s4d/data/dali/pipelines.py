"""DALI's pipelines: encoded bytes in, one output of uint8 pixels for each cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from nvidia.dali import Pipeline, fn, types

INTERPOLATION = {"bilinear": int(types.INTERP_LINEAR), "bicubic": int(types.INTERP_CUBIC)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """What differs between pipelines: videos or images, cuts of a file, frames of a cut, pixels per side."""

    video: bool
    cuts: int
    frames: int
    size: int


def build_pipeline(shape: Shape, device: torch.device, batch_size: int, threads: int) -> Any:
    """A pipeline with the inputs `encoded`, for videos `frames`, and for each cut k its `order` (videos), `start`,
    `end` and `interpolation`, named with k behind; output k is (n, frames, S, S, 3), for images (n, S, S, 3).
    """
    pipeline = Pipeline(
        batch_size=batch_size,
        num_threads=threads,
        device_id=None if device.type == "cpu" else device.index or 0,
        # Outputs belong to whoever holds them, so that they need not be copied before the next run.
        exec_dynamic=True,
        prefetch_queue_depth=1,
    )
    with pipeline:
        encoded = fn.external_source(name="encoded", ndim=1, dtype=types.UINT8, no_copy=True)
        decoded = _decode(encoded, shape, "cpu" if device.type == "cpu" else "mixed")
        pipeline.set_outputs(*[_cut(decoded, shape, number) for number in range(shape.cuts)])
    pipeline.build()
    return pipeline


def _decode(encoded: Any, shape: Shape, device: str) -> Any:
    if shape.video:
        frames = fn.external_source(name="frames", ndim=1, dtype=types.INT32)
        # A frame past the end is an error: the plan counts frames by the file's own packets.
        return fn.decoders.video(encoded, frames=frames, device=device, pad_mode="none", affine=False)
    return fn.decoders.image(
        encoded,
        device=device,
        output_type=types.RGB,
        # As Pillow decodes: smooth colours, the exact inverse transform, pixels as they are stored.
        jpeg_fancy_upsampling=True,
        use_fast_idct=False,
        adjust_orientation=False,
    )


def _cut(decoded: Any, shape: Shape, number: int) -> Any:
    if shape.video:
        order = fn.external_source(name=f"order{number}", ndim=1, dtype=types.INT32)
        decoded = fn.sequence_rearrange(decoded, new_order=order)
    code = fn.external_source(name=f"interpolation{number}", ndim=0, dtype=types.INT32)
    return fn.resize(
        decoded,
        size=[shape.size, shape.size],
        roi_start=fn.external_source(name=f"start{number}", ndim=1, dtype=types.FLOAT),
        roi_end=fn.external_source(name=f"end{number}", ndim=1, dtype=types.FLOAT),
        roi_relative=True,
        interp_type=fn.reinterpret(code, dtype=types.INTERP_TYPE),
        antialias=True,
    )
