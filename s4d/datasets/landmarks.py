"""From the 68 points of the usual face mark-up to the five that a manifest keeps."""

from __future__ import annotations

from collections.abc import Sequence

POINTS = 68
# Point numbers, counted from 0, of the two eyes (left in the image first), whose middle is taken.
EYES = (range(36, 42), range(42, 48))
NOSE_TIP, MOUTH_LEFT, MOUTH_RIGHT = 30, 48, 54


def five_points(numbers: Sequence[float]) -> tuple[float, ...]:
    """x and y of eyes, nose tip and mouth corners (10 numbers, to a tenth of a pixel) from x and y of 68 points."""
    if len(numbers) != 2 * POINTS:
        raise ValueError(f"expected x and y of {POINTS} points, got {len(numbers)} numbers")
    found: list[float] = []
    for eye in EYES:
        found += [sum(numbers[2 * i + axis] for i in eye) / len(eye) for axis in (0, 1)]
    for i in (NOSE_TIP, MOUTH_LEFT, MOUTH_RIGHT):
        found += numbers[2 * i : 2 * i + 2]
    return tuple(round(value, 1) for value in found)
