"""Tables of faces that others made: one csv file for all samples, or OpenFace's own file for one sample."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from s4d.data.crop.faces import Face
from s4d.datasets.landmarks import POINTS as LANDMARKS
from s4d.datasets.landmarks import five_points
from s4d.datasets.listing import read_lines, read_table
from s4d.errors import DataError

# Frame number from 0 (None: every frame) -> face, or None where the table says that there is none.
FacesOfSample = Mapping[int | None, Face | None]

CORNERS = ("left", "top", "right", "bottom")
SIZES = ("x", "y", "width", "height")
POINTS = tuple(
    f"{point}_{axis}" for point in ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth") for axis in ("x", "y")
)
UNITS = ("pixel", "part")
MAX_DIGITS = 9

OPENFACE_COLUMNS = tuple(f"{axis}_{number}" for number in range(LANDMARKS) for axis in "xy")


def read_boxes(path: Path) -> dict[str, FacesOfSample]:
    """Faces by sample from a csv file with the columns

    `sample` (the manifest's sample_id or path), optionally `frame` (from 0, in time order; empty: all frames), a box as
    `left,top,right,bottom` or `x,y,width,height`, points as `left_eye_x,left_eye_y,right_eye_x,...` (nose, left_mouth,
    right_mouth), and `unit` (`pixel`, or `part` of the frame's width and height). Empty numbers say: no face here.
    """
    lines = read_table(path, required=("sample",), optional=("frame", "unit", *CORNERS, *SIZES, *POINTS))
    found: dict[str, dict[int | None, Face | None]] = {}
    for number, row in lines:
        where = f"{path}: line {number}"
        if not row["sample"]:
            raise DataError(f"{where}: field 'sample' is empty")
        frame = _frame(row.get("frame", ""), where)
        faces = found.setdefault(row["sample"], {})
        if frame in faces:
            raise DataError(f"{where}: field 'sample': {row['sample']!r} has a face for this frame already")
        faces[frame] = _face(row, where)
    if not found:
        raise DataError(f"{path}: holds no rows")
    return dict(found)


def _frame(text: str, where: str) -> int | None:
    if not text:
        return None
    if not text.isdecimal() or len(text) > MAX_DIGITS:
        raise DataError(f"{where}: field 'frame': expected a number from 0 on, got {text!r}")
    return int(text)


def _face(row: Mapping[str, str], where: str) -> Face | None:
    if row.get("unit", "") not in ("", *UNITS):
        raise DataError(f"{where}: field 'unit': expected {' or '.join(UNITS)}, got {row['unit']!r}")
    corners = _numbers(row, CORNERS, where)
    sizes = _numbers(row, SIZES, where)
    if corners and sizes:
        raise DataError(f"{where}: field 'left': a box is given twice, as corners and as x, y, width, height")
    if sizes:
        x, y, width, height = sizes
        corners = [x, y, x + width, y + height]
    given = [name for name in POINTS if row.get(name)]
    points = _numbers(row, POINTS if set(given) - set(POINTS[:4]) else POINTS[:4], where)
    if not corners and not points:
        return None
    return Face(
        box=(corners[0], corners[1], corners[2], corners[3]) if corners else None,
        points=tuple(points) if points else None,
        where=where,
        relative=row.get("unit") == "part",
    )


def _numbers(row: Mapping[str, str], names: tuple[str, ...], where: str) -> list[float]:
    """The numbers of columns that belong together; empty where all are."""
    texts = [row.get(name, "") for name in names]
    if not any(texts):
        return []
    values = []
    for name, text in zip(names, texts, strict=True):
        try:
            values.append(float(text))
        except ValueError as error:
            raise DataError(f"{where}: field {name!r}: expected a number, got {text!r}") from error
    return values


def read_openface(path: Path) -> dict[int | None, Face | None]:
    """Faces by frame from a csv file of OpenFace with 2-d landmarks; of several faces in a frame the largest.

    A file without a column `frame` is one of a still image.
    """
    found: dict[int | None, Face | None] = {}
    for number, row in _openface_rows(path):
        where = f"{path}: line {number}"
        frame = _frame(row.get("frame", ""), where)
        if frame == 0:
            raise DataError(f"{where}: field 'frame': OpenFace counts from 1, got 0")
        place = None if frame is None else frame - 1
        face = _openface(_numbers(row, OPENFACE_COLUMNS, where), where) if row.get("success", "1") == "1" else None
        if _area(face) > _area(found.get(place)) or place not in found:
            found[place] = face
    if not found:
        raise DataError(f"{path}: holds no rows")
    return found


def _openface_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Lines of a file of OpenFace as (number, column -> text)."""
    reader = csv.reader(read_lines(path))
    try:
        header = [name.strip() for name in next(reader, [])]
        for name in OPENFACE_COLUMNS:
            if name not in header:
                raise DataError(f"{path}: line 1: column {name!r} is missing (OpenFace writes it with -2Dfp)")
        rows = []
        for cells in reader:
            if len(cells) not in (0, len(header)):
                raise DataError(f"{path}: line {reader.line_num}: expected {len(header)} fields, got {len(cells)}")
            if cells:
                texts = (cell.strip() for cell in cells)
                rows.append((reader.line_num, dict(zip(header, texts, strict=True))))
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: {error}") from error
    return rows


def _openface(values: list[float], where: str) -> Face:
    xs, ys = values[0::2], values[1::2]
    return Face(box=(min(xs), min(ys), max(xs), max(ys)), points=five_points(values), where=where)


def _area(face: Face | None) -> float:
    return 0.0 if face is None or face.box is None else (face.box[2] - face.box[0]) * (face.box[3] - face.box[1])
