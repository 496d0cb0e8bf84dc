"""Who is drawn: everything about a face that stays the same in all pictures of one person."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

from s4d.synth.action_units import COLUMN, UNITS
from s4d.synth.streams import normal, stream, uniform

Colour = tuple[float, float, float]

# Linear-light skin tones from light to dark; an identity lies somewhere between two neighbours.
SKIN_TONES: tuple[Colour, ...] = (
    (0.96, 0.79, 0.69),
    (0.91, 0.70, 0.57),
    (0.80, 0.58, 0.43),
    (0.66, 0.45, 0.31),
    (0.49, 0.32, 0.22),
    (0.37, 0.24, 0.17),
)
HAIR_TONES: tuple[Colour, ...] = (
    (0.07, 0.06, 0.06),
    (0.17, 0.11, 0.08),
    (0.33, 0.20, 0.11),
    (0.66, 0.50, 0.28),
    (0.48, 0.19, 0.09),
    (0.62, 0.61, 0.60),
)
IRIS_TONES: tuple[Colour, ...] = ((0.20, 0.11, 0.06), (0.33, 0.22, 0.10), (0.25, 0.38, 0.50), (0.25, 0.38, 0.24))

# Resting offsets of action units (units of full activation): natural brow height, lip corner and lid set differ
# from person to person and imitate weak expressions.
REST_SPREAD: dict[int, float] = {1: 0.10, 2: 0.10, 4: 0.09, 5: 0.10, 7: 0.08, 12: 0.07, 15: 0.07, 17: 0.05, 23: 0.10}


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """Shape, colours and resting face of one person; lengths in half face widths or heights."""

    index: int
    aspect: float
    taper: float
    skin: Colour
    hair: Colour
    iris: Colour
    lips: Colour
    hairline: float
    fringe: float
    hair_volume: float
    hair_length: float
    hair_waves: float
    eye_spacing: float
    eye_height: float
    eye_width: float
    eye_opening: float
    brow_height: float
    brow_thickness: float
    brow_arch: float
    nose_width: float
    nose_length: float
    mouth_height: float
    mouth_width: float
    lip_thickness: float
    beard: float
    glasses: bool
    rest: np.ndarray

    def __post_init__(self) -> None:
        if self.rest.shape != (2, len(UNITS)):
            raise ValueError(f"rest: expected shape (2, {len(UNITS)}), got {self.rest.shape}")


def _between(rng: np.random.Generator, tones: tuple[Colour, ...]) -> Colour:
    position = uniform(rng, 0.0, len(tones) - 1.001)
    low, share = int(position), position - int(position)
    mixed = [a + (b - a) * share for a, b in zip(tones[low], tones[low + 1], strict=True)]
    return mixed[0], mixed[1], mixed[2]


def _lip_colour(rng: np.random.Generator, skin: Colour) -> Colour:
    hue, _, value = colorsys.rgb_to_hsv(*skin)
    painted = rng.uniform() < 0.25
    saturation = uniform(rng, 0.6, 0.85) if painted else uniform(rng, 0.42, 0.6)
    return colorsys.hsv_to_rgb((hue - 0.06) % 1.0, saturation, value * uniform(rng, 0.66, 0.85))


def sample_identity(seed: int, index: int) -> Identity:
    """Draw person `index` of a seed; the same pair always gives the same person."""
    rng = stream(seed, "identity", index)
    skin = _between(rng, SKIN_TONES)
    hair = HAIR_TONES[int(rng.integers(len(HAIR_TONES)))]
    rest = np.zeros((2, len(UNITS)), np.float32)
    for unit, spread in REST_SPREAD.items():
        rest[:, COLUMN[unit]] = normal(rng, spread) + np.array([normal(rng, 0.03), normal(rng, 0.03)])
    return Identity(
        index=index,
        aspect=1.30 + normal(rng, 0.05),
        taper=0.22 + normal(rng, 0.09),
        skin=skin,
        hair=hair,
        iris=IRIS_TONES[int(rng.integers(len(IRIS_TONES)))],
        lips=_lip_colour(rng, skin),
        hairline=-0.70 + normal(rng, 0.05),
        fringe=uniform(rng, -0.35, 0.35),
        hair_volume=uniform(rng, 1.0, 1.22),
        hair_length=float(rng.choice([-0.1, 0.2, 0.6, 1.6])),
        hair_waves=uniform(rng, 2.0, 9.0),
        eye_spacing=0.41 + normal(rng, 0.02),
        eye_height=-0.10 + normal(rng, 0.018),
        eye_width=0.235 + normal(rng, 0.012),
        eye_opening=1.0 + normal(rng, 0.08),
        brow_height=-0.345 + normal(rng, 0.02),
        brow_thickness=uniform(rng, 0.040, 0.068),
        brow_arch=uniform(rng, 0.01, 0.06),
        nose_width=0.145 + normal(rng, 0.016),
        nose_length=0.245 + normal(rng, 0.02),
        mouth_height=0.50 + normal(rng, 0.02),
        mouth_width=0.39 + normal(rng, 0.02),
        lip_thickness=uniform(rng, 0.045, 0.085),
        beard=float(rng.choice([0.0, 0.0, 0.0, 0.25, 0.6])),
        glasses=bool(rng.uniform() < 0.15),
        rest=rest,
    )
