"""Everything random about one view of one sample, drawn from a counter-based generator."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class ColorOp:
    """One RandAugment step, the same for all frames of a clip: operation name and signed magnitude."""

    name: str
    magnitude: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleDraw:
    """The random decisions of one view; a pure function of (seed, epoch, sample id, view).

    `frame_indices` index the decoded sample's frames (one entry for an image); `crop_box` is (left, top, width, height)
    in pixels of the resized frame of `resized` (width, height); `erase_box` is (top, left, bottom, right) in pixels of
    the output, or None; `mask_seed` keys the token mask, `noise_key` the router noise and erasing noise of this view.
    """

    frame_indices: tuple[int, ...]
    resized: tuple[int, int]
    crop_box: tuple[float, float, float, float]
    flip: bool
    interpolation: str
    jitter: tuple[float, float, float] | None
    color_ops: tuple[ColorOp, ...]
    erase_box: tuple[int, int, int, int] | None
    mask_seed: int
    noise_key: int
