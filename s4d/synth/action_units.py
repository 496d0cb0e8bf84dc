"""Facial action units and the EMFACS combinations of the seven basic classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

UNITS: dict[int, str] = {
    1: "inner brow raiser",
    2: "outer brow raiser",
    4: "brow lowerer",
    5: "upper lid raiser",
    6: "cheek raiser",
    7: "lid tightener",
    9: "nose wrinkler",
    10: "upper lip raiser",
    12: "lip corner puller",
    15: "lip corner depressor",
    16: "lower lip depressor",
    17: "chin raiser",
    18: "lip pucker",
    20: "lip stretcher",
    23: "lip tightener",
    24: "lip pressor",
    25: "lips part",
    26: "jaw drop",
    43: "eyes closed",
}
COLUMN: dict[int, int] = {unit: column for column, unit in enumerate(UNITS)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Prototype:
    """Units of a class: `required` always act, each of `optional` acts in six of ten samples."""

    required: tuple[int, ...]
    optional: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        unknown = [unit for unit in (*self.required, *self.optional) if unit not in UNITS]
        if unknown:
            raise ValueError(f"action units {unknown} are not drawn; known: {sorted(UNITS)}")


EMFACS: dict[str, Prototype] = {
    "neutral": Prototype(required=()),
    "happiness": Prototype(required=(6, 12), optional=(25,)),
    "sadness": Prototype(required=(1, 4, 15), optional=(17,)),
    "surprise": Prototype(required=(1, 2, 5, 26), optional=(25,)),
    "fear": Prototype(required=(1, 2, 4, 5, 7, 20, 26), optional=(25,)),
    "disgust": Prototype(required=(9, 15, 16), optional=(10, 17)),
    "anger": Prototype(required=(4, 5, 7, 23), optional=(17, 24)),
}
CLASSES: tuple[str, ...] = tuple(EMFACS)

# How far a unit goes at full class intensity, where that is not 1: FACS grades surprise's lid raise B of A to E,
# and a fearful jaw drops less than a surprised one.
STRENGTH: dict[tuple[str, int], float] = {
    ("surprise", 5): 0.8,
    ("fear", 26): 0.45,
    ("fear", 7): 0.4,
    ("anger", 5): 0.5,
    ("disgust", 15): 0.7,
}


def express(label: str, rng: np.random.Generator, *, intensity: float, asymmetry: float) -> np.ndarray:
    """Unit activations of one expression, shape (2 sides, units): required units vary, optional ones come and go."""
    prototype = EMFACS[label]
    activations = np.zeros((2, len(UNITS)), np.float32)
    # Draw for every unit, used or not, so that the stream position does not depend on the class.
    variation = rng.uniform(0.8, 1.15, len(UNITS))
    chance = rng.uniform(0.0, 1.0, len(UNITS))
    sides = 1.0 + asymmetry * np.clip(rng.standard_normal((2, len(UNITS))), -2, 2)
    for unit in prototype.required:
        column = COLUMN[unit]
        activations[:, column] = variation[column] * STRENGTH.get((label, unit), 1.0)
    for unit in prototype.optional:
        column = COLUMN[unit]
        if chance[column] < 0.6:
            activations[:, column] = variation[column] * (0.6 + chance[column])
    return (intensity * activations * sides).astype(np.float32)
