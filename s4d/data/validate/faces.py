"""Faces: how large they are in the picture and where the eyes lie, against what a crop recipe promises."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from s4d.data.crop.geometry import target_points
from s4d.data.crop.recipe import named
from s4d.data.manifest import ManifestRow
from s4d.data.validate.findings import Finding, summary
from s4d.data.validate.subject import Subject
from s4d.errors import UsageError

# Below this share of the picture the median face was hardly cut out: cut-outs of the field fill a third and more.
SMALL_FACE = 0.15
# Degrees between the eyes and the horizontal.
TILTED = 20.0
# Eyes this far from the recipe's place, in distances between the eyes, were not cut out by that recipe.
MISPLACED = 0.25
# Share of faces from which on single ones are a fault of the whole.
MANY = 0.05


def check_face_boxes(subject: Subject) -> Iterator[Finding]:
    """Empty boxes, boxes that leave the picture, and faces too small to have been cut out."""
    outside = []
    for number, row in _rows(subject, "face_box"):
        left, top, right, bottom = row.face_box or (0, 0, 0, 0)
        if right <= left or bottom <= top:
            text = f"holds nothing: {left} {top} {right} {bottom}"
            yield Finding(severity="error", code="face-box", text=text, file=row.path, row=number, field="face_box")
        size = _size(subject, row)
        if size is not None and (left < 0 or top < 0 or right > size[0] or bottom > size[1]):
            outside.append(row.path)
    if outside:
        yield summary("warning", "face-outside", outside, len(subject.media), "have a face box that leaves the picture")
    areas = face_areas(subject)
    if len(areas) and not subject.manifest.crop and float(np.median(areas)) < SMALL_FACE:
        text = f"the median face takes {np.median(areas):.1%} of the picture: were the faces cut out? (`s4d data crop`)"
        yield Finding(severity="warning", code="face-small", text=text, field="face_box")


def check_eye_line(subject: Subject) -> Iterator[Finding]:
    """Eyes named the wrong way round and faces that hang to one side."""
    rows = [row for _, row in _rows(subject, "face_points")]
    if not rows:
        return
    eyes = _eyes(rows)
    swapped = [row.path for row, (left, right) in zip(rows, eyes, strict=True) if left[0] > right[0]]
    if swapped:
        yield summary("warning", "eyes-swapped", swapped, len(rows), "have the picture's right eye first")
    tilted = np.abs(eye_angles(subject)) > TILTED
    if tilted.mean() > MANY:
        paths = [row.path for row, is_tilted in zip(rows, tilted, strict=True) if is_tilted]
        yield summary("warning", "eyes-tilted", paths, len(rows), f"have an eye line tilted by more than {TILTED:g}°")


def check_crop(subject: Subject) -> Iterator[Finding]:
    """Eyes of cut-out faces against the places that the manifest's crop recipe gives them."""
    if not subject.manifest.crop:
        return
    try:
        recipe = named(subject.manifest.crop)
    except UsageError as error:
        yield Finding(severity="warning", code="crop-recipe", text=str(error), field="crop")
        return
    sizes = [(medium.path, probe) for medium, probe in subject.known() if probe.width is not None]
    wrong = [path for path, probe in sizes if (probe.width, probe.height) != (recipe.size, recipe.size)]
    if wrong:
        text = f"are not {recipe.size} x {recipe.size} pixels, as recipe {subject.manifest.crop} makes them"
        yield summary("error", "crop-size", wrong, len(sizes), text)
    rows = [row for _, row in _rows(subject, "face_points")]
    if not rows or recipe.align == "none":
        return
    expected = target_points(recipe)[:2]
    shift = np.linalg.norm(_eyes(rows).mean(axis=1) - expected.mean(axis=0), axis=1)
    off = shift / np.linalg.norm(expected[1] - expected[0]) > MISPLACED
    if off.mean() > MANY:
        paths = [row.path for row, is_off in zip(rows, off, strict=True) if is_off]
        text = f"have their eyes elsewhere than recipe {subject.manifest.crop} puts them"
        yield summary("warning", "crop-eyes", paths, len(rows), text)


def check_crop_of_model(subject: Subject) -> Iterator[Finding]:
    """The crop recipe against those that a model was trained on, where both are known."""
    crop, reference = subject.manifest.crop, subject.reference
    if crop and reference is not None and reference.crops and crop not in reference.crops:
        text = f"crops are {crop}, {reference.folder} was trained on {' and '.join(sorted(reference.crops))}"
        yield Finding(severity="warning", code="crop-of-model", text=text, field="crop")


def face_areas(subject: Subject) -> NDArray[np.float64]:
    """Share of the picture that each face box takes, where the picture's size is known."""
    areas = []
    for _, row in _rows(subject, "face_box"):
        size = _size(subject, row)
        if size is not None and row.face_box is not None:
            left, top, right, bottom = row.face_box
            areas.append((right - left) * (bottom - top) / (size[0] * size[1]))
    return np.array(areas)


def eye_angles(subject: Subject) -> NDArray[np.float64]:
    """Degrees by which each eye line falls to the right of the picture, whichever eye is named first."""
    rows = [row for _, row in _rows(subject, "face_points")]
    if not rows:
        return np.zeros(0)
    eyes = _eyes(rows)
    line = eyes[:, 1] - eyes[:, 0]
    line *= np.where(line[:, :1] < 0, -1.0, 1.0)
    return np.degrees(np.arctan2(line[:, 1], line[:, 0]))


def face_measures(subject: Subject) -> dict[str, list[float]]:
    """Area and eye angle of every face where boxes or points are known."""
    measures = {"face_area": face_areas(subject).tolist(), "eye_angle": eye_angles(subject).tolist()}
    return {name: values for name, values in measures.items() if values}


def _rows(subject: Subject, field: str) -> Iterator[tuple[int, ManifestRow]]:
    """First row of each medium that has the field."""
    for medium in subject.media.values():
        number, row = medium.rows[0]
        if getattr(row, field) is not None:
            yield number, row


def _size(subject: Subject, row: ManifestRow) -> tuple[int, int] | None:
    probe = subject.probes.get(row.path)
    if probe is None or not probe.width or not probe.height:
        return None
    return probe.width, probe.height


def _eyes(rows: list[ManifestRow]) -> NDArray[np.float64]:
    """Both eyes of each row, (rows, 2, 2): first or second eye, x or y."""
    return np.array([(row.face_points or ())[:4] for row in rows], dtype=np.float64).reshape(-1, 2, 2)
