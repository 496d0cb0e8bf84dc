"""Draws everything random about one view; the training draw and the deterministic test draw.

Geometry runs: window of the decoded frame (the whole frame, or VoxCeleb2's top-centre part), resize, crop, resize to
the model's size. It is stored as one box in the resized frame, so that a decoder can do it in a single resampling.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from s4d.config_data import AugmentConfig
from s4d.data.counter import generator, stable_key
from s4d.data.draws import ColorOp, SampleDraw
from s4d.data.randaug import draw_operations
from s4d.data.sampling import (
    FRAME_ORDERS,
    Indices,
    covering_window,
    release_test_window,
    repeated_frame,
    train_indices,
)

TRIES = 10
ERASE_AREA = (0.02, 1 / 3)
ERASE_ASPECT = (0.3, 1 / 0.3)
# Left, top, width and height as shares of the frame.
WINDOWS = {"full": (0.0, 0.0, 1.0, 1.0), "voxceleb2": (32 / 224, 0.0, 160 / 224, 160 / 224)}

Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawKey:
    """What a view's draws depend on: `epoch` is the source's own, `view` counts repeats of one decoded sample."""

    seed: int
    epoch: int
    sample_id: str
    view: int

    def rng(self, purpose: str) -> np.random.Generator:
        """Generator of one purpose."""
        return generator(self.seed, self.epoch, self.sample_id, self.view, purpose)

    def number(self, purpose: str) -> int:
        """63-bit key of one purpose."""
        return stable_key(self.seed, self.epoch, self.sample_id, self.view, purpose)


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewSpec:
    """What a source asks of a view: frames, their stride and rule, pixels per side, window of the decoded frame."""

    num_frames: int
    stride: int
    rule: str
    size: int
    window: str = "full"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Frames, height, width and colours of a view's pixels."""
        return self.num_frames, self.size, self.size, 3


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalView:
    """Place of a test view: temporal window and spatial crop, each `index` of `count`; `repeated` holds one frame.

    `frame_order`, a name in `FRAME_ORDERS`, is what becomes of the window's frames.
    """

    temporal: tuple[int, int] = (0, 1)
    spatial: tuple[int, int] = (0, 1)
    repeated: bool = False
    frame_order: str = "kept"


@dataclass(frozen=True, slots=True)
class _Canvas:
    """The resized frame: its whole size, and the window inside it that crops are drawn from."""

    resized: tuple[int, int]
    window: Box


def _canvas(size: tuple[int, int], window: str, resize: str, resize_to: int | None) -> _Canvas:
    left, top, across, down = WINDOWS[window]
    width, height = size[0] * across, size[1] * down
    if resize_to is None:
        scale = (1.0, 1.0)
    elif resize == "square":
        scale = (resize_to / width, resize_to / height)
    else:
        scale = (resize_to / min(width, height),) * 2
    resized = (max(1, round(size[0] * scale[0])), max(1, round(size[1] * scale[1])))
    return _Canvas(resized, (resized[0] * left, resized[1] * top, resized[0] * across, resized[1] * down))


def _random_resized_crop(rng: np.random.Generator, width: float, height: float, augment: AugmentConfig) -> Box:
    """Area and aspect drawn until the box fits, ten times at most, then the largest central box of a legal aspect."""
    low, high = (math.log(aspect) for aspect in augment.crop_aspect)
    for _ in range(TRIES):
        area = width * height * rng.uniform(*augment.crop_area)
        aspect = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left = int(rng.integers(0, int(width - w) + 1))
            return left, int(rng.integers(0, int(height - h) + 1)), w, h
    aspect = min(max(width / height, augment.crop_aspect[0]), augment.crop_aspect[1])
    across, down = min(width, height * aspect), min(height, width / aspect)
    return (width - across) / 2, (height - down) / 2, across, down


def _train_crop(rng: np.random.Generator, canvas: _Canvas, augment: AugmentConfig, size: int) -> Box:
    left, top, width, height = canvas.window
    if augment.crop == "random_resized":
        box = _random_resized_crop(rng, width, height, augment)
    else:
        side = min(float(size), width, height) if augment.resize_to is not None else min(width, height)
        place = (0.5, 0.5) if augment.crop == "center" else (rng.random(), rng.random())
        if augment.resize_to is None:
            box = ((width - side) * place[0], (height - side) * place[1], side, side)
        else:
            # Whole pixels: where the frame already has its resized size, the crop is a plain copy.
            steps = int(width - side) + 1, int(height - side) + 1
            box = (float(int(steps[0] * place[0])), float(int(steps[1] * place[1])), side, side)
    return left + box[0], top + box[1], box[2], box[3]


def _erase_box(rng: np.random.Generator, size: int, probability: float) -> tuple[int, int, int, int] | None:
    if rng.random() >= probability:
        return None
    low, high = (math.log(aspect) for aspect in ERASE_ASPECT)
    for _ in range(TRIES):
        area = size * size * rng.uniform(*ERASE_AREA)
        aspect = math.exp(rng.uniform(low, high))
        down, across = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < down < size and 0 < across < size:
            top, left = int(rng.integers(0, size - down + 1)), int(rng.integers(0, size - across + 1))
            return top, left, top + down, left + across
    return None


def train_draw(
    key: DrawKey, spec: ViewSpec, augment: AugmentConfig, *, frame_count: int, size: tuple[int, int]
) -> SampleDraw:
    """Random decisions of one training view of a sample with `frame_count` frames of `size` (width, height)."""
    canvas = _canvas(size, spec.window, augment.resize, augment.resize_to)
    rng = key.rng("geometry")
    indices = train_indices(spec.rule, frame_count, spec.num_frames, spec.stride, key.rng("frames"))
    crop_box = _train_crop(rng, canvas, augment, spec.size)
    flip = bool(rng.random() < augment.flip)
    interpolation = ("bilinear", "bicubic")[int(rng.random() < 0.5)]
    if augment.interpolation != "random":
        interpolation = augment.interpolation
    jitter = None
    if augment.color_jitter > 0:
        reach = augment.color_jitter
        factors = key.rng("jitter").uniform(max(0.0, 1 - reach), 1 + reach, size=3)
        jitter = (float(factors[0]), float(factors[1]), float(factors[2]))
    operations: tuple[ColorOp, ...] = ()
    if augment.randaug_ops:
        operations = draw_operations(
            key.rng("randaug"),
            augment.randaug_ops,
            magnitude=augment.randaug_magnitude,
            std=augment.randaug_std,
            probability=augment.randaug_probability,
        )
    return SampleDraw(
        frame_indices=indices,
        resized=canvas.resized,
        crop_box=crop_box,
        flip=flip,
        interpolation=interpolation,
        jitter=jitter,
        color_ops=operations,
        erase_box=_erase_box(key.rng("erase"), spec.size, augment.erase) if augment.erase > 0 else None,
        mask_seed=key.number("mask"),
        noise_key=key.number("noise"),
    )


def _eval_indices(key: DrawKey, spec: ViewSpec, view: EvalView, frame_count: int) -> Indices:
    index, count = view.temporal
    if view.repeated:
        return repeated_frame(frame_count, spec.num_frames, view=index, views=count)
    rule = covering_window if spec.rule == "window" else release_test_window
    indices = rule(frame_count, spec.num_frames, spec.stride, view=index, views=count)
    # Not from the run's seed: all runs see the same shuffled clips.
    return FRAME_ORDERS[view.frame_order](indices, generator(0, 0, key.sample_id, key.view, "frame order"))


def eval_draw(
    key: DrawKey, spec: ViewSpec, view: EvalView, *, resize: str, frame_count: int, size: tuple[int, int]
) -> SampleDraw:
    """Deterministic test view: the largest square (or the squashed whole, `resize` square) at its place, no changes."""
    canvas = _canvas(size, spec.window, resize, spec.size)
    left, top, width, height = canvas.window
    side = min(width, height)
    index, count = view.spatial
    place = 0.5 if count == 1 else index / (count - 1)
    return SampleDraw(
        frame_indices=_eval_indices(key, spec, view, frame_count),
        resized=canvas.resized,
        crop_box=(left + (width - side) * place, top + (height - side) * place, side, side),
        flip=False,
        interpolation="bilinear",
        jitter=None,
        color_ops=(),
        erase_box=None,
        mask_seed=key.number("mask"),
        noise_key=key.number("noise"),
    )
