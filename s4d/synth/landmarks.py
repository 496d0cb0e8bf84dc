"""Where the points of a drawn face are: the annotation that a real dataset would come with."""

from __future__ import annotations

from s4d.synth.action_units import COLUMN
from s4d.synth.canvas import Canvas
from s4d.synth.identity import Identity
from s4d.synth.render import Face

POINT_COLUMNS: tuple[str, ...] = tuple(
    f"{point}_{axis}" for point in ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth") for axis in "xy"
)
# A canvas this small costs nothing, and its geometry is that of any other.
UNIT_SIZE = 2


def face_points(identity: Identity, face: Face, size: int) -> tuple[float, ...]:
    """x and y of both eyes, nose tip and mouth corners at rest in a frame of `size`, 10 pixel coordinates.

    Coordinates are continuous (the first pixel's centre is 0.5); left is the picture's left.
    """
    jaw = 0.5 * float((identity.rest + face.units)[:, COLUMN[26]].sum())
    canvas = Canvas(identity, face.pose, UNIT_SIZE, min(max(jaw, 0.0), 1.2))
    places = (
        (-identity.eye_spacing, identity.eye_height),
        (identity.eye_spacing, identity.eye_height),
        (0.0, identity.nose_length),
        (-identity.mouth_width, identity.mouth_height),
        (identity.mouth_width, identity.mouth_height),
    )
    points: list[float] = []
    for u, v in places:
        row, column = canvas.project(u, v)
        points += [column * size / UNIT_SIZE, row * size / UNIT_SIZE]
    return tuple(points)
