"""Brows, eyes and forehead: the upper action units 1, 2, 4, 5, 6, 7, 43 and the wrinkles they leave."""

from __future__ import annotations

import numpy as np

from s4d.synth.canvas import Canvas, bell, soft
from s4d.synth.identity import Colour

Units = dict[int, float]

SCLERA: Colour = (0.93, 0.92, 0.90)
PUPIL: Colour = (0.03, 0.03, 0.03)
LASH: Colour = (0.10, 0.07, 0.06)
FRAME: Colour = (0.08, 0.08, 0.10)


def _lids(canvas: Canvas, t: np.ndarray, units: Units) -> tuple[np.ndarray, np.ndarray]:
    """Upper and lower lid line of one eye; t runs from -1 at the nose to 1 at the temple."""
    identity = canvas.identity
    closed = min(max(units[43], 0.0), 1.0)
    upper = 0.115 + 0.080 * units[5] - 0.045 * units[7] - 0.020 * units[6] - 0.040 * units[9] - 0.015 * units[4]
    lower = 0.080 + 0.012 * units[5] - 0.042 * units[7] - 0.045 * units[6] - 0.030 * units[9]
    upper, lower = max(upper, 0.018) * identity.eye_opening, max(lower, 0.008) * identity.eye_opening
    # Closing moves the upper lid down to the lower one; a raised inner brow lifts the inner half of the upper lid.
    upper += (-0.7 * lower - upper) * closed
    curve = 1.0 - t * t
    slant = 0.035 * units[1] * (0.4 + units[4]) * t
    return identity.eye_height - upper * curve + slant * curve, identity.eye_height + lower * curve


def draw_eye(canvas: Canvas, side: int, units: Units, gaze: tuple[float, float]) -> None:
    """Eyeball between two lids, lash line, lid crease and the bag that tightened lids push up."""
    identity = canvas.identity
    centre, half = side * identity.eye_spacing, identity.eye_width
    region = canvas.region(
        centre - 1.5 * half, centre + 1.5 * half, identity.eye_height - 0.30, identity.eye_height + 0.25
    )
    u, v = canvas.u[region], canvas.v[region]
    t = (u - centre) * (side / half)
    top, bottom = _lids(canvas, t, units)
    pixel = canvas.pixel
    canvas.darken(region, 0.22 * bell(t, 1.5) * bell(v - identity.eye_height + 0.05, 0.20))
    inside = soft(v - top, pixel) * soft(bottom - v, pixel) * soft(1.0 - np.abs(t), 2 * pixel / half)
    canvas.paint(region, inside, SCLERA)
    # The iris is round on screen, so its horizontal distance is scaled by the face's aspect.
    dx = (u - centre - 0.06 * gaze[0]) * (1.0 / identity.aspect)
    dy = v - identity.eye_height + 0.012 - 0.04 * gaze[1]
    radius = np.sqrt(dx * dx + dy * dy)
    canvas.paint(region, inside * soft(0.090 - radius, pixel), identity.iris)
    canvas.paint(region, inside * soft(0.046 - radius, pixel), PUPIL)
    within = bell(t, 1.15)
    canvas.paint(region, 0.9 * within * bell(v - top, 0.032), LASH)
    canvas.darken(region, 0.35 * within * bell(v - bottom, 0.025))
    canvas.darken(region, 0.30 * within * bell(v - top + 0.07 - 0.02 * units[5], 0.025))
    pouch = min(max(units[6] + 0.6 * units[7], 0.0), 1.5)
    canvas.darken(region, 0.50 * pouch * bell(t, 1.2) * bell(v - bottom - 0.05, 0.04))


def draw_brow(canvas: Canvas, side: int, units: Units) -> None:
    """Hair brow bent by the inner raiser, the outer raiser and the lowerer, which also draws it to the middle."""
    identity = canvas.identity
    lowered = units[4]
    inner = 0.13 - 0.055 * lowered
    left, right = sorted((side * 0.02, side * 0.80))
    region = canvas.region(left, right, identity.brow_height - 0.32, identity.brow_height + 0.3)
    u, v = canvas.u[region], canvas.v[region]
    q = np.clip((side * u - inner) * (1.0 / (0.68 - inner)), 0.0, 1.0)
    rest = identity.brow_height - identity.brow_arch * 4.0 * q * (1.0 - q) + 0.03 * q * q
    start = -0.21 * units[1] + 0.085 * lowered * (1.0 - 0.6 * min(max(units[1], 0.0), 1.0)) + 0.04 * units[9]
    end = -0.185 * units[2] + 0.02 * lowered
    bend = -0.06 * units[2] * 4.0 * q * (1.0 - q)
    line = rest + start * np.square(1.0 - q) + end * q + 0.07 * lowered + 0.03 * units[9] + bend
    thick = identity.brow_thickness * (1.15 - 0.7 * q)
    along = soft(side * u - inner, 0.06) * soft(0.70 - side * u, 0.08)
    mask = along * soft(thick - np.abs(v - line), 2 * canvas.pixel)
    dark = tuple(0.55 * tone for tone in identity.hair)
    canvas.paint(region, 0.88 * mask, (dark[0], dark[1], dark[2]))
    # The fold of skin between a lowered brow and the eye.
    canvas.darken(region, 0.30 * min(max(lowered, 0.0), 1.2) * along * bell(v - line - thick - 0.03, 0.06))


def draw_forehead(canvas: Canvas, units: Units) -> None:
    """Horizontal furrows of raised brows, vertical ones between lowered brows."""
    identity = canvas.identity
    raised, wide = max(units[1], 0.0), max(units[2], 0.0)
    if raised + wide > 0.1:
        region = canvas.region(-0.6, 0.6, identity.brow_height - 0.42, identity.brow_height)
        u, v = canvas.u[region], canvas.v[region]
        reach = bell(u, 0.34 + 0.34 * min(wide, 1.0)) * min(0.7 * raised + 0.3 * wide, 1.2)
        lift = identity.brow_height - 0.10 * raised - 0.03 * np.square(u * 3.0) * (1 if wide < raised else -0.3)
        for step in (0.09, 0.175, 0.26):
            canvas.darken(region, 0.55 * reach * bell(v - lift + step, 0.036))
    if units[4] > 0.05:
        region = canvas.region(-0.16, 0.16, identity.brow_height - 0.15, identity.brow_height + 0.22)
        u, v = canvas.u[region], canvas.v[region]
        height = bell(v - identity.brow_height - 0.04, 0.17)
        canvas.darken(region, 0.65 * min(units[4], 1.2) * height * bell(np.abs(u) - 0.06, 0.042))


def draw_crow_feet(canvas: Canvas, side: int, units: Units) -> None:
    """Rays at the outer eye corner of a raised cheek."""
    strength = min(units[6], 1.2)
    if strength <= 0.05:
        return
    identity = canvas.identity
    corner = identity.eye_spacing + identity.eye_width
    left, right = sorted((side * (corner - 0.02), side * (corner + 0.22)))
    region = canvas.region(left, right, -0.30, 0.12)
    u, v = side * canvas.u[region] - corner, canvas.v[region] - identity.eye_height
    fade = bell(u - 0.10, 0.11)
    for slope in (-0.7, 0.0, 0.7):
        canvas.darken(region, 0.60 * strength * fade * bell(v - slope * u, 0.036))


def draw_glasses(canvas: Canvas) -> None:
    """Rim around each eye and a bridge."""
    identity = canvas.identity
    region = canvas.region(-0.85, 0.85, identity.eye_height - 0.28, identity.eye_height + 0.30)
    u, v = canvas.u[region], canvas.v[region] - identity.eye_height - 0.01
    dx = (np.abs(u) - identity.eye_spacing) * (1.0 / 0.31)
    dy = v * (1.0 / 0.215)
    rim = np.square(dx) + np.square(dy)
    ring = bell(rim - 1.0, 0.26)
    bridge = soft(0.11 - np.abs(u), 0.02) * bell(v + 0.05, 0.03)
    canvas.paint(region, 0.85 * np.maximum(ring, bridge), FRAME)
