"""Nose, cheeks, mouth and chin: the lower action units 9, 10, 12, 15-18, 20, 23-26 and their furrows."""

from __future__ import annotations

import numpy as np

from s4d.synth.canvas import Canvas, bell, soft
from s4d.synth.identity import Colour

Units = dict[int, float]

TEETH: Colour = (0.90, 0.88, 0.82)
MOUTH_INSIDE: Colour = (0.16, 0.04, 0.05)
TONGUE: Colour = (0.55, 0.22, 0.22)


def draw_nose(canvas: Canvas, light: tuple[float, float, float], units: Units) -> None:
    """Bridge and wings as relief against the light, nostrils, and the wrinkles of unit 9."""
    identity = canvas.identity
    wrinkle = max(units[9], 0.0)
    lift = 0.055 * wrinkle + 0.02 * max(units[10], 0.0)
    tip = identity.nose_length - lift
    half = identity.nose_width * (1.0 + 0.22 * wrinkle + 0.10 * max(units[12], 0.0))
    region = canvas.region(-0.36, 0.36, identity.eye_height - 0.10, tip + 0.14)
    u, v = canvas.u[region], canvas.v[region]
    down = np.clip((v - identity.eye_height) * (1.0 / (tip - identity.eye_height)), 0.0, 1.0)
    width = half * (0.75 + 0.45 * down)
    ridge = u / width
    height = bell(ridge, 1.7) * down * soft(tip + 0.04 - v, 0.08)
    canvas.relief[region] += (1.1 * light[0] * ridge) * height
    canvas.darken(region, 0.35 * bell(u, 1.25 * half) * bell(v - tip - 0.035, 0.06))
    canvas.darken(region, 0.65 * bell(np.abs(u) - 0.55 * half, 0.05) * bell(v - tip - 0.005, 0.032))
    canvas.darken(region, 0.35 * bell(np.abs(u) - 1.12 * half, 0.03) * bell(v - tip + 0.02, 0.07))
    if wrinkle > 0.05:
        strength = min(wrinkle, 1.2)
        for row, spread in ((0.00, 0.17), (0.075, 0.19), (0.15, 0.21)):
            arc = v - identity.eye_height - row - 0.9 * u * u
            canvas.darken(region, 0.65 * strength * bell(u, spread) * bell(arc, 0.034))
        slope = np.abs(u) - 0.10 - 0.45 * np.clip(v - identity.eye_height - 0.05, 0.0, 1.0)
        canvas.darken(region, 0.55 * strength * bell(slope, 0.045) * bell(v - identity.eye_height - 0.14, 0.15))


def draw_cheek(canvas: Canvas, side: int, light: tuple[float, float, float], units: Units) -> None:
    """Cheek apple pushed up by units 6 and 12 and the fold from nose wing to mouth corner."""
    raised = min(max(0.6 * units[6] + 0.6 * units[12], 0.0), 1.3)
    fold = min(0.12 + max(0.9 * units[12], 0.8 * units[10], 0.75 * units[9], 0.3 * units[20], 0.0), 1.2)
    left, right = sorted((side * 0.10, side * 0.82))
    region = canvas.region(left, right, 0.0, 0.66)
    u, v = side * canvas.u[region], canvas.v[region]
    if raised > 0.05:
        du, dv = (u - 0.47) * (1.0 / 0.27), (v - 0.20) * (1.0 / 0.17)
        apple = np.square(np.maximum(1.0 - du * du - dv * dv, 0.0))
        canvas.relief[region] += raised * apple * (1.1 * side * light[0] * du + 1.1 * light[1] * dv + 0.22)
        canvas.darken(region, 0.40 * raised * bell(dv - 1.0, 0.40) * bell(du, 1.0))
    top = canvas.identity.nose_length - 0.06 * max(units[9], 0.0)
    along = np.clip((v - top + 0.04) * (1.0 / 0.34), 0.0, 1.0)
    spread = 0.26 + 0.30 * max(units[12], 0.0) + 0.12 * max(units[20], 0.0)
    curve = 0.19 + spread * np.power(along, 1.4)
    window = bell(along - 0.40, 0.45)
    canvas.darken(region, 0.60 * fold * window * bell(u - curve, 0.055))


class Mouth:
    """Lip lines of one frame: corners, inner and outer contours as functions of the surface coordinates."""

    def __init__(self, canvas: Canvas, left: Units, right: Units) -> None:
        """Blend the two sides' units; the middle of the mouth takes their mean."""
        identity = canvas.identity
        mean = {unit: 0.5 * (left[unit] + right[unit]) for unit in left}
        self.mean = mean
        reach = max(self._reach(left), self._reach(right)) * identity.mouth_width
        self.region = canvas.region(-1.15 * reach, 1.15 * reach, identity.mouth_height - 0.36, 0.98)
        u, self.v = canvas.u[self.region], canvas.v[self.region]
        self.u = u
        on_left = u < 0.0
        width = np.where(on_left, self._reach(left), self._reach(right)) * np.float32(identity.mouth_width)
        corner = np.where(on_left, self._corner(left), self._corner(right)).astype(np.float32)
        self.t = u / width
        bow = np.clip(1.0 - self.t * self.t, 0.0, 1.0)
        up = 0.006 + 0.022 * mean[25] + 0.035 * mean[26] + 0.085 * mean[10] + 0.03 * mean[9]
        down = 0.006 + 0.055 * mean[25] + 0.270 * mean[26] + 0.095 * mean[16] - 0.02 * mean[24]
        down += 0.08 * max(mean[12], 0.0) * mean[25]
        seal = max(1.0 - 0.8 * max(mean[24], 0.0), 0.0)
        rise = -0.055 * mean[17] - 0.02 * mean[10] - 0.03 * mean[15] + 0.03 * mean[12]
        middle = identity.mouth_height + corner * np.square(self.t) + rise * bow
        thin = max(1.0 - 0.62 * max(mean[23], 0.0) - 0.45 * max(mean[24], 0.0) - 0.20 * max(mean[12], 0.0), 0.2)
        full = identity.lip_thickness * thin * (1.0 + 0.5 * max(mean[18], 0.0))
        rim = np.sqrt(bow)
        self.upper_in = middle - max(up, 0.002) * seal * bow
        self.lower_in = middle + max(down, 0.002) * seal * bow
        self.upper_out = self.upper_in - full * 0.85 * rim
        self.lower_out = self.lower_in + full * 1.15 * rim

    @staticmethod
    def _reach(units: Units) -> float:
        reach = 1.0 + 0.30 * units[12] + 0.36 * units[20] - 0.16 * units[23] - 0.28 * units[18] - 0.12 * units[26]
        return min(max(reach - 0.06 * units[17] - 0.05 * units[9], 0.5), 1.6)

    @staticmethod
    def _corner(units: Units) -> float:
        return -0.22 * units[12] + 0.20 * units[15] + 0.055 * units[20] - 0.02 * units[17]


def draw_mouth(canvas: Canvas, left: Units, right: Units) -> None:
    """Lips, the dark between them, teeth and tongue."""
    mouth = Mouth(canvas, left, right)
    region, v, t, mean = mouth.region, mouth.v, mouth.t, mouth.mean
    pixel = canvas.pixel
    ends = soft(1.0 - np.abs(t), 0.08)
    lips = ends * soft(v - mouth.upper_out, 1.5 * pixel) * soft(mouth.lower_out - v, 1.5 * pixel)
    canvas.paint(region, 0.9 * lips, canvas.identity.lips)
    inside = ends * soft(v - mouth.upper_in, pixel) * soft(mouth.lower_in - v, pixel)
    canvas.paint(region, inside, MOUTH_INSIDE)
    canvas.paint(region, 0.8 * inside * bell(t, 0.7) * soft(v - mouth.lower_in + 0.10, 0.06), TONGUE)
    upper_teeth = 0.020 + 0.060 * max(mean[12], mean[10], 0.7 * mean[20], 0.6 * mean[9], 0.25)
    canvas.paint(region, inside * bell(t, 1.1) * soft(mouth.upper_in + upper_teeth - v, pixel), TEETH)
    lower_teeth = 0.065 * max(mean[16], mean[20], 0.0)
    if lower_teeth > 0.008:
        canvas.paint(region, inside * bell(t, 1.0) * soft(v - mouth.lower_in + lower_teeth, pixel), TEETH)
    closure = bell(v - 0.5 * (mouth.upper_in + mouth.lower_in), 0.022) * soft(1.04 - np.abs(t), 0.06)
    gap = np.clip((mouth.lower_in - mouth.upper_in) * (1.0 / 0.05), 0.0, 1.0)
    canvas.darken(region, 0.75 * closure * (1.0 - gap))
    canvas.darken(region, 0.65 * bell(np.abs(t) - 1.0, 0.14) * bell(v - mouth.upper_in, 0.05))
    canvas.darken(region, 0.25 * bell(t, 0.7) * bell(v - mouth.lower_out - 0.035, 0.05))
    tight = min(max(mean[23], 0.5 * mean[24], 0.0), 1.2)
    if tight > 0.05:
        bulge = np.maximum(bell(v - mouth.upper_out + 0.055, 0.04), bell(v - mouth.lower_out - 0.055, 0.04))
        canvas.darken(region, 0.55 * tight * bell(t, 0.9) * bulge)


def draw_chin(canvas: Canvas, units: Units) -> None:
    """Dimpled, raised chin of unit 17 and the lines that run down from lowered lip corners."""
    raised, lowered = min(max(units[17], 0.0), 1.2), min(max(units[15], 0.0), 1.2)
    if raised + lowered <= 0.05:
        return
    region = canvas.region(-0.52, 0.52, 0.50, 0.96)
    u, v = canvas.u[region], canvas.v[region]
    boss = np.square(u * (1.0 / 0.22)) + np.square((v - 0.80) * (1.0 / 0.11))
    canvas.darken(region, 0.60 * raised * bell(boss - 1.0, 0.8) * soft(0.80 - v, 0.10))
    corner = canvas.identity.mouth_width
    line = np.abs(u) - corner - 0.03 - 0.25 * (v - 0.68)
    canvas.darken(region, 0.60 * lowered * bell(line, 0.05) * bell(v - 0.72, 0.12))


def draw_beard(canvas: Canvas) -> None:
    """Stubble or beard over jaw and upper lip."""
    identity = canvas.identity
    if identity.beard <= 0.0:
        return
    region = canvas.region(-1.0, 1.0, -0.05, 1.0)
    u, v = canvas.u[region], canvas.v[region]
    jaw = soft(v - 0.40 + 0.9 * np.maximum(np.abs(u) - 0.45, 0.0), 0.12) * soft(v - 0.08, 0.12)
    canvas.paint(region, identity.beard * jaw, identity.hair)
