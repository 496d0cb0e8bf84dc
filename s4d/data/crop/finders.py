"""Where the faces of a sample come from: the manifest, a table of boxes, OpenFace's files, or a detector."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from s4d.data.crop.boxes import FacesOfSample, read_boxes, read_openface
from s4d.data.crop.faces import Face, check_face
from s4d.data.crop.track import main_face
from s4d.errors import DataError


class Sample(Protocol):
    """What finders ask about a sample: the names that tables know it by, and the face its manifest row has."""

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def face(self) -> Face | None: ...


class Finder(Protocol):
    """Finds the face of a sample in each of its frames; None where there is none."""

    @property
    def origin(self) -> str:
        """What the faces depend on besides the sample, in one line: a folder of crops is continued with the same."""
        ...

    def find(
        self, sample: Sample, frames: Iterable[NDArray[np.uint8]], frame_count: int, size: tuple[int, int]
    ) -> Sequence[Face | None]:
        """One face or None for each of `frame_count` frames of `size` (w, h); DataError for faces that cannot be."""
        ...


class Detector(Protocol):
    """Finds all faces in a frame."""

    @property
    def origin(self) -> str:
        """Name and version of the detector in one line."""
        ...

    def detect(self, frame: NDArray[np.uint8]) -> list[Face]:
        """Faces of an RGB frame (H, W, 3)."""
        ...


@dataclass(frozen=True, slots=True)
class RowFinder:
    """The box or points of the sample's manifest row hold for all its frames."""

    origin: str = "face_box and face_points of the manifest"

    def find(
        self, sample: Sample, frames: Iterable[NDArray[np.uint8]], frame_count: int, size: tuple[int, int]
    ) -> Sequence[Face | None]:
        """See `Finder.find`."""
        if sample.face is None:
            return [None] * frame_count
        check_face(sample.face, size)
        return [sample.face] * frame_count


@dataclass(frozen=True, slots=True)
class TableFinder:
    """A table has the faces: one for the whole sample or one a frame."""

    origin: str
    faces: Mapping[str, FacesOfSample]

    def find(
        self, sample: Sample, frames: Iterable[NDArray[np.uint8]], frame_count: int, size: tuple[int, int]
    ) -> Sequence[Face | None]:
        """See `Finder.find`."""
        known = next((self.faces[name] for name in sample.names if name in self.faces), None)
        return [None] * frame_count if known is None else spread(known, frame_count, size)


@dataclass(frozen=True, slots=True)
class OpenFaceFinder:
    """A folder has one csv file of OpenFace for each sample, at the sample's path with the suffix .csv, or by name."""

    origin: str
    folder: Path

    def find(
        self, sample: Sample, frames: Iterable[NDArray[np.uint8]], frame_count: int, size: tuple[int, int]
    ) -> Sequence[Face | None]:
        """See `Finder.find`."""
        for name in sample.names:
            whole, bare = f"{name}.csv", f"{name.rpartition('.')[0] or name}.csv"
            for inside in (whole, bare, whole.rpartition("/")[2], bare.rpartition("/")[2]):
                if (self.folder / inside).is_file():
                    return spread(read_openface(self.folder / inside), frame_count, size)
        return [None] * frame_count


@dataclass(frozen=True, slots=True)
class DetectorFinder:
    """A detector looks at every frame; the largest and most central face is followed."""

    detector: Detector

    @property
    def origin(self) -> str:
        """See `Finder.origin`."""
        return self.detector.origin

    def find(
        self, sample: Sample, frames: Iterable[NDArray[np.uint8]], frame_count: int, size: tuple[int, int]
    ) -> Sequence[Face | None]:
        """See `Finder.find`."""
        return main_face([_possible(self.detector.detect(frame), size) for frame in frames], size)


def _possible(faces: list[Face], size: tuple[int, int]) -> list[Face]:
    """Detections without those that no crop can be made of; a detector's slip is a frame without a face."""
    kept = []
    for face in faces:
        try:
            check_face(face, size)
        except DataError:
            continue
        kept.append(face)
    return kept


def spread(known: FacesOfSample, frame_count: int, size: tuple[int, int]) -> list[Face | None]:
    """The faces of a table on the frames of a sample; DataError for a frame that the sample does not have."""
    faces: dict[int | None, Face | None] = {}
    for frame, face in known.items():
        faces[frame] = None if face is None else face.in_pixels(size)
        if frame is not None and frame >= frame_count:
            where = face.where if face is not None else "the table"
            raise DataError(f"{where}: field 'frame': {frame}, but the sample has {frame_count} frames")
        if face is not None:
            check_face(face.in_pixels(size), size)
    whole = faces.get(None)
    return [faces.get(place, whole) for place in range(frame_count)]


def open_annotations(path: Path) -> TableFinder | OpenFaceFinder:
    """Faces from a csv table, or from a folder with a csv file of OpenFace for each sample."""
    if path.is_dir():
        folder = path.resolve()
        return OpenFaceFinder(
            f"OpenFace files in {folder}, SHA-256 of names, sizes and times {_listed(folder)}", folder
        )
    if not path.is_file():
        raise DataError(f"{path}: no such table of boxes or folder of OpenFace files")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return TableFinder(f"table of boxes, SHA-256 {digest}", read_boxes(path))


def _listed(folder: Path) -> str:
    """Digest of which csv files a folder has; they are too many to be read beforehand."""
    digest = hashlib.sha256()
    try:
        found = sorted(folder.rglob("*.csv"))
        if not found:
            raise DataError(f"{folder}: no csv file of OpenFace in it nor below it")
        for path in found:
            about = path.stat()
            digest.update(
                f"{path.relative_to(folder)}\0{about.st_size}\0{about.st_mtime_ns}\n".encode(errors="surrogateescape")
            )
    except OSError as error:
        raise DataError(f"{error.filename or folder}: {error.strerror or error}") from error
    return digest.hexdigest()
