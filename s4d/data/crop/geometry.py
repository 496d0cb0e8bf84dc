"""Similarity transforms: from points by least squares, and from a face to its crop.

Letters: n points. A transform is (2, 3) float64: its first two columns turn and scale, its last shifts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from s4d.data.crop.recipe import CropRecipe

Points = NDArray[np.float64]
Transform = NDArray[np.float64]

# Where eyes, nose tip and mouth corners lie in a face square of side 1: the alignment template that face recognition
# has used since SphereFace and ArcFace (there in pixels of a 112 x 112 picture), made symmetric.
FACE_POINTS: Points = np.array(
    [[0.34263, 0.46070], [0.65737, 0.46070], [0.5, 0.64050], [0.36985, 0.82469], [0.63015, 0.82469]]
)


def similarity(source: Points, target: Points) -> Transform:
    """The turn, scale and shift (no mirroring) that bring `source` (n, 2) closest to `target` (n, 2), n >= 2.

    Least squares in closed form (Umeyama 1991); ValueError where all points of `source` fall together.
    """
    mean_source, mean_target = source.mean(axis=0), target.mean(axis=0)
    centred = source - mean_source
    spread = float(np.square(centred).sum())
    if not np.isfinite(spread) or spread < 1e-12:
        raise ValueError("the points fall together")
    left, singular, right = np.linalg.svd((target - mean_target).T @ centred)
    signs = np.array([1.0, np.sign(np.linalg.det(left) * np.linalg.det(right))])
    turn = (left * signs) @ right
    scale = float((singular * signs).sum()) / spread
    return np.column_stack((scale * turn, mean_target - scale * turn @ mean_source))


def apply(transform: Transform, points: Points) -> Points:
    """`points` (n, 2) after `transform`."""
    return points @ transform[:, :2].T + transform[:, 2]


def inverse(transform: Transform) -> Transform:
    """The transform back."""
    back = np.linalg.inv(transform[:, :2])
    return np.column_stack((back, -back @ transform[:, 2]))


def target_points(recipe: CropRecipe) -> Points:
    """Where eyes, nose and mouth corners belong in the crop of a recipe, (5, 2) pixels."""
    side = recipe.size / (1.0 + 2.0 * recipe.margin)
    centred = (FACE_POINTS - (0.5, FACE_POINTS[0, 1])) * side
    return centred + np.array([recipe.size / 2.0, recipe.eye_line * recipe.size])


def box_transform(box: Points, recipe: CropRecipe) -> Transform:
    """From the square around `box` (left, top, right, bottom) with the recipe's margin to the crop."""
    width, height = box[2] - box[0], box[3] - box[1]
    side = max(width, height) * (1.0 + 2.0 * recipe.margin)
    return square_transform((box[0] + box[2]) / 2.0, (box[1] + box[3]) / 2.0, side, recipe.size)


def square_transform(x: float, y: float, side: float, size: int) -> Transform:
    """From an upright square of `side` around (x, y) to `size` pixels."""
    scale = size / side
    return np.array([[scale, 0.0, size / 2.0 - scale * x], [0.0, scale, size / 2.0 - scale * y]])


def points_transform(points: Points, recipe: CropRecipe) -> Transform:
    """From the eyes, or all of `points` (2 or 5, 2), to their places in the crop."""
    used = 2 if recipe.align == "eyes" else len(points)
    return similarity(points[:used], target_points(recipe)[:used])


def left_to_right(points: Points) -> Points:
    """Points with the picture's left eye (and mouth corner) first: annotations name sides both ways.

    Faces hang less than a quarter turn, so an eye further right is the right one.
    """
    if points[0, 0] <= points[1, 0]:
        return points
    return points[[1, 0] if len(points) == 2 else [1, 0, 2, 4, 3]]
