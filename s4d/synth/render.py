"""One frame: face, head and scene put together, lit, occluded and seen through a camera."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from s4d.synth.action_units import UNITS
from s4d.synth.canvas import Canvas, frame_grid, soft
from s4d.synth.head import draw_behind, draw_hairline
from s4d.synth.identity import Identity
from s4d.synth.lower_face import draw_beard, draw_cheek, draw_chin, draw_mouth, draw_nose
from s4d.synth.scene import Pose, Scene
from s4d.synth.upper_face import draw_brow, draw_crow_feet, draw_eye, draw_forehead, draw_glasses


@dataclass(frozen=True, kw_only=True, slots=True)
class Face:
    """State of a face in one frame: unit activations (2 sides, units) on top of the resting face, pose and gaze."""

    units: np.ndarray
    pose: Pose
    gaze: tuple[float, float]


def render(identity: Identity, scene: Scene, face: Face, *, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw one frame, uint8 (size, size, 3); `rng` feeds the sensor noise only."""
    activations = identity.rest + face.units
    left, right = (dict(zip(UNITS, row, strict=True)) for row in activations.tolist())
    mean = {unit: 0.5 * (left[unit] + right[unit]) for unit in UNITS}
    canvas = Canvas(identity, face.pose, size, min(max(mean[26], 0.0), 1.2))
    _paint_face(canvas, scene, (left, right, mean), face.gaze)
    picture = draw_behind(canvas, scene)
    shade = _shading(canvas, scene)
    for plane, albedo, tint in zip(picture, canvas.albedo, scene.light_colour, strict=True):
        plane += canvas.coverage * (albedo * (scene.ambient + tint * shade) - plane)
    _occlude(picture, scene, size)
    return _camera(picture, scene, sum(identity.skin) / 3.0, rng)


def _paint_face(
    canvas: Canvas,
    scene: Scene,
    units: tuple[dict[int, float], dict[int, float], dict[int, float]],
    gaze: tuple[float, float],
) -> None:
    left, right, mean = units
    draw_beard(canvas)
    draw_forehead(canvas, mean)
    for side, own in ((-1, left), (1, right)):
        draw_cheek(canvas, side, scene.light, own)
        draw_crow_feet(canvas, side, own)
        draw_eye(canvas, side, own, gaze)
        draw_brow(canvas, side, own)
    draw_nose(canvas, scene.light, mean)
    draw_chin(canvas, mean)
    draw_mouth(canvas, left, right)
    draw_hairline(canvas)
    if canvas.identity.glasses:
        draw_glasses(canvas)


def _shading(canvas: Canvas, scene: Scene) -> np.ndarray:
    """Lambert term of the head's sphere plus the painted relief, (size, size)."""
    x, y, z = scene.light
    diffuse = canvas.head_x * x + canvas.head_y * y + canvas.head_z * z + canvas.relief
    return np.maximum(diffuse, 0.0) * (1.05 - scene.ambient)


def _occlude(picture: np.ndarray, scene: Scene, size: int) -> None:
    if scene.occluder is None:
        return
    x, y, half_width, half_height, angle = scene.occluder
    xs, ys = frame_grid(size)
    cos, sin = math.cos(angle), math.sin(angle)
    along, across = (xs - x) * cos + (ys - y) * sin, (ys - y) * cos - (xs - x) * sin
    inside = soft(1.0 - np.square(along / half_width) - np.square(across / half_height), 0.1)
    for plane, value in zip(picture, scene.occluder_colour, strict=True):
        plane += inside * (value - plane)


def _camera(picture: np.ndarray, scene: Scene, skin: float, rng: np.random.Generator) -> np.ndarray:
    """Exposure set for the skin, tone curve, lens softness and noise; returns uint8 (size, size, 3)."""
    if scene.softness > 0.1:
        picture = _blur(picture, scene.softness / 4.0)
    # Half-way automatic: a dark skin still comes out darker than a light one.
    gain = np.float32(scene.exposure / math.sqrt(skin * 0.55))
    noise = rng.standard_normal(picture.shape[1:], np.float32) * np.float32(scene.noise)
    light = scene.illumination * gain
    for plane, balance in zip(picture, scene.gain, strict=True):
        plane *= light * balance
        np.minimum(plane, 1.0, out=plane)
        plane += scene.contrast * plane * (1.0 - plane) + noise
    np.clip(picture, 0.0, 1.0, out=picture)
    return np.ascontiguousarray((picture * 255.0 + 0.5).astype(np.uint8).transpose(1, 2, 0))


def _blur(picture: np.ndarray, weight: float) -> np.ndarray:
    """Three-tap blur of (3, rows, columns) in both directions; the border keeps its sharpness."""
    middle = 1.0 - 2.0 * weight
    picture[:, 1:-1] = middle * picture[:, 1:-1] + weight * (picture[:, :-2] + picture[:, 2:])
    picture[:, :, 1:-1] = middle * picture[:, :, 1:-1] + weight * (picture[:, :, :-2] + picture[:, :, 2:])
    return picture
