"""Where and how a face is photographed: light, background, pose at rest, occluder, camera."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from s4d.synth.streams import normal, uniform


@dataclass(frozen=True, kw_only=True, slots=True)
class Pose:
    """Head position and size as parts of the half frame; angles in radians, positive yaw to the right, pitch down."""

    x: float
    y: float
    scale: float
    yaw: float
    pitch: float
    roll: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """Everything outside the person; constant over a clip. The background is (3, size, size) float32 in 0..1."""

    background: np.ndarray
    cloth: tuple[float, float, float]
    light: tuple[float, float, float]
    light_colour: tuple[float, float, float]
    ambient: float
    occluder: tuple[float, float, float, float, float] | None
    occluder_colour: tuple[float, float, float]
    exposure: float
    illumination: np.ndarray
    gain: tuple[float, float, float]
    contrast: float
    noise: float
    softness: float
    quality: int


def _smooth_field(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Random colours on a coarse grid, blown up smoothly: an out-of-focus room."""
    coarse = (rng.uniform(0.0, 255.0, (cells, cells, 3))).astype(np.uint8)
    large = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(large, np.float32).transpose(2, 0, 1) / 255.0


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    field = _smooth_field(rng, size, int(rng.integers(2, 4)))
    level, contrast = uniform(rng, 0.1, 0.75), uniform(rng, 0.2, 0.6)
    field = level + (field - 0.5) * contrast
    for _ in range(int(rng.integers(0, 2))):
        left, top = int(rng.integers(-size // 3, size)), int(rng.integers(-size // 3, size))
        wide, high = int(rng.integers(size // 12, size // 2)), int(rng.integers(size // 12, size))
        colour = rng.uniform(0.0, 1.0, 3).astype(np.float32)[:, None, None]
        field[:, max(top, 0) : max(top + high, 0), max(left, 0) : max(left + wide, 0)] = colour
    return np.clip(field, 0.0, 1.0).astype(np.float32)


def _illumination(rng: np.random.Generator, size: int) -> np.ndarray:
    """Uneven light as a factor per pixel, (size, size): smooth shadows that move the brightness of whole regions."""
    cells = int(rng.integers(2, 5))
    coarse = rng.uniform(0.0, 255.0, (cells, cells)).astype(np.uint8)
    field = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC), np.float32)
    return np.exp((field * (1.0 / 255.0) - 0.5) * uniform(rng, 0.1, 0.6)).astype(np.float32)


def _colour(rng: np.random.Generator) -> tuple[float, float, float]:
    return uniform(rng, 0.05, 0.9), uniform(rng, 0.05, 0.9), uniform(rng, 0.05, 0.9)


def _occluder(rng: np.random.Generator, share: float) -> tuple[float, float, float, float, float] | None:
    """Bar or blob (x, y, half width, half height, angle) reaching in from the frame's border."""
    direction = uniform(rng, 0.0, 2 * math.pi)
    reach = uniform(rng, 0.75, 1.05)
    shape = (uniform(rng, 0.12, 0.45), uniform(rng, 0.12, 0.35), uniform(rng, 0.0, math.pi))
    if rng.uniform() >= share:
        return None
    return reach * math.cos(direction), reach * math.sin(direction), *shape


def sample_scene(rng: np.random.Generator, size: int, *, occlusion: float = 0.12) -> Scene:
    """Draw light, background and camera of one picture or clip."""
    azimuth, elevation = uniform(rng, -1.25, 1.25), uniform(rng, -0.4, 1.1)
    light = (math.sin(azimuth) * math.cos(elevation), -math.sin(elevation), math.cos(azimuth) * math.cos(elevation))
    warmth, level = uniform(rng, -0.12, 0.12), uniform(rng, 0.42, 0.72)
    return Scene(
        background=_background(rng, size),
        cloth=_colour(rng),
        light=light,
        light_colour=(1.0 + warmth, 1.0, 1.0 - warmth),
        ambient=uniform(rng, 0.40, 0.70),
        occluder=_occluder(rng, occlusion),
        occluder_colour=_colour(rng),
        exposure=level,
        illumination=_illumination(rng, size),
        gain=(1 + normal(rng, 0.06), 1.0, 1 + normal(rng, 0.06)),
        contrast=uniform(rng, -0.25, 0.35),
        noise=uniform(rng, 0.0, 0.006),
        softness=uniform(rng, 0.0, 0.8),
        quality=int(rng.integers(70, 95)),
    )


def sample_pose(rng: np.random.Generator) -> Pose:
    """Draw how the head sits in the frame: a loose crop around a face that is not held straight."""
    return Pose(
        x=normal(rng, 0.15),
        y=normal(rng, 0.14) - 0.08,
        scale=uniform(rng, 0.82, 1.06),
        yaw=normal(rng, 0.18),
        pitch=normal(rng, 0.11),
        roll=normal(rng, 0.13),
    )
