"""What surrounds the face: back hair, neck and clothes behind it, hairline and fringe on it."""

from __future__ import annotations

import numpy as np

from s4d.synth.canvas import Canvas, soft
from s4d.synth.scene import Scene


def _lay(picture: np.ndarray, mask: np.ndarray, colour: tuple[float, float, float], shade: float) -> None:
    for plane, value in zip(picture, colour, strict=True):
        plane += mask * (value * shade - plane)


def draw_behind(canvas: Canvas, scene: Scene) -> np.ndarray:
    """Background picture with shoulders, neck and back hair, (3, size, size)."""
    identity, x, y = canvas.identity, canvas.head_x, canvas.head_y
    edge = 4.0 * canvas.pixel
    picture = scene.background.copy()
    shade = scene.ambient + 0.45
    volume = identity.hair_volume
    if volume > 1.03:
        across = x * (1.0 / volume)
        crown = soft(1.0 - across * across - np.square((y + 0.05) * (1.0 / volume)), edge)
        sides = soft(1.0 - np.abs(across) - 0.02 * np.cos(identity.hair_waves * y), edge) * soft(y + 0.05, edge)
        hair = np.maximum(crown * soft(identity.hair_length - y, 0.15), sides * soft(identity.hair_length - y, 0.15))
        _lay(picture, hair, identity.hair, 0.75 * shade)
    neck = soft(0.52 - np.abs(x) / (1.0 + identity.taper * np.square(np.maximum(y, 0.0))), edge) * soft(y - 0.45, 0.1)
    _lay(picture, neck, identity.skin, 0.62 * shade)
    _lay(picture, soft(y - 1.16 - 0.10 * x * x, edge), scene.cloth, 0.8 * shade)
    return picture


def draw_hairline(canvas: Canvas) -> None:
    """Hair over the top of the forehead, parted to one side, with strands."""
    identity = canvas.identity
    region = canvas.region(-1.0, 1.0, -1.0, -0.30)
    u, v = canvas.u[region], canvas.v[region]
    line = identity.hairline + 0.35 * u * u + 0.12 * identity.fringe * np.sin(2.2 * u + 4.0 * identity.fringe)
    line += 0.015 * np.sin(identity.hair_waves * 3.0 * u)
    mask = soft(line - v, 0.05)
    canvas.paint(region, mask, identity.hair)
    canvas.darken(region, 0.14 * mask * (0.5 + 0.5 * np.sin(31.0 * u + identity.hair_waves * v)))
