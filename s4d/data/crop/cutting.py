"""The crop of one sample, from the frames on disk to the files beside the new manifest."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from s4d.data.crop.faces import Face
from s4d.data.crop.finders import Finder
from s4d.data.crop.geometry import Transform, apply, box_transform, points_transform, square_transform
from s4d.data.crop.media_files import OutputError, Picture, frame_times, read_frames, remove, write_crops
from s4d.data.crop.recipe import CropRecipe
from s4d.data.crop.track import Track, steady, still, track_of
from s4d.data.crop.warp import warp
from s4d.data.manifest import Kind
from s4d.data.media import Media, open_media
from s4d.data.upright import Upright, orientation_of
from s4d.errors import DataError

NoFace = Literal["error", "skip", "center"]
OnError = Literal["error", "skip"]
Status = Literal["face", "center", "none", "failed"]


class NoFaceError(DataError):
    """A sample shows no face: `no_face` says what then, whatever is done about media that are wrong."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CropJob:
    """One medium to crop: where it lies, what it is called, the face its row has, and where its crop goes."""

    names: tuple[str, ...]
    path: Path
    kind: Kind
    face: Face | None
    target: str
    where: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Cropped:
    """What came of a job.

    `face`: cut around a face; `center`: around the middle, there was none; `none`: left out, there was none; `failed`:
    left out, `problem` says why. `aligned`: by its points. Box and points are in pixels of the crop, the median over a
    clip; `missed` counts the frames of a clip whose face was filled in from its neighbours.
    """

    status: Status
    frames: int = 0
    missed: int = 0
    aligned: bool = False
    fps: float | None = None
    box: tuple[int, int, int, int] | None = None
    points: tuple[float, ...] | None = None
    problem: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cropper:
    """Crops job `index`, in whatever process. `upright` turns frames that are stored lying down, see `Upright`."""

    jobs: Sequence[CropJob]
    recipe: CropRecipe
    finder: Finder
    out: Path
    aside: Path
    no_face: NoFace = "error"
    on_error: OnError = "error"
    upright: bool = False

    def __getitem__(self, index: int) -> Cropped:
        """DataError names a medium or an annotation that is wrong, unless these are to be skipped.

        NoFaceError names a sample without a face where these are errors.
        """
        job = self.jobs[index]
        target = self.out / job.target
        try:
            return self._crop(job, target, self.aside / str(index))
        except OutputError:
            raise
        except DataError as error:
            with contextlib.suppress(OSError):
                remove(self.aside / str(index))
                remove(target)
            if self.on_error == "error" or isinstance(error, NoFaceError):
                raise
            return Cropped(status="failed", problem=str(error))

    def _crop(self, job: CropJob, target: Path, aside: Path) -> Cropped:
        media = self._open(job)
        faces = self.finder.find(job, _frames(media, job), media.frame_count, media.size)
        track = track_of(faces)
        missed = int((~track.found).sum())
        if missed == len(faces):
            if self.no_face == "error":
                raise NoFaceError(
                    f"{job.where}: no face in {job.path} (faces from: {self.finder.origin}; see --no-face skip|center)"
                )
            if self.no_face == "skip":
                remove(target)
                return Cropped(status="none")
            transforms = _centred(media, self.recipe)
            write_crops(self._pictures(job, media, transforms), job.path, job.kind, target, aside, self.recipe)
            return Cropped(status="center", frames=media.frame_count, fps=_fps(job))
        track = steady(track, self.recipe.smooth)
        if self.recipe.per == "clip":
            track = still(track)
        try:
            transforms, aligned = transforms_of(track, self.recipe)
        except ValueError as error:
            raise DataError(f"{job.where}: face points: {error}") from error
        write_crops(self._pictures(job, media, transforms), job.path, job.kind, target, aside, self.recipe)
        box, points = seen_in_crop(track, transforms, self.recipe.size)
        return Cropped(
            status="face",
            frames=media.frame_count,
            missed=missed,
            aligned=aligned,
            fps=_fps(job),
            box=box,
            points=points,
        )

    def _open(self, job: CropJob) -> Media:
        media = open_media(job.path, job.kind)
        return Upright(media, orientation_of(job.path, job.kind)) if self.upright else media

    def _pictures(self, job: CropJob, media: Media, transforms: Sequence[Transform]) -> Iterator[Picture]:
        for frame, transform in zip(_frames(media, job), transforms, strict=True):
            yield warp(frame, transform, self.recipe.size, self.recipe.edge)


def _frames(media: Media, job: CropJob) -> Iterator[Picture]:
    if isinstance(media, Upright):
        return map(media.orientation.turn, read_frames(media.stored, job.path, job.kind))
    return read_frames(media, job.path, job.kind)


def transforms_of(track: Track, recipe: CropRecipe) -> tuple[list[Transform], bool]:
    """From each frame of a steadied track to the crop, and whether points could be used.

    ValueError where the points of a frame fall together.
    """
    if recipe.align != "none" and track.points.shape[1]:
        return [points_transform(points, recipe) for points in track.points], True
    return [box_transform(box, recipe) for box in track.boxes], False


def seen_in_crop(
    track: Track, transforms: Sequence[Transform], size: int
) -> tuple[tuple[int, int, int, int] | None, tuple[float, ...] | None]:
    """Box (what of it lies inside of the crop) and points in the crop's pixels, the median over the frames."""
    boxes, points = [], []
    for box, marks, transform in zip(track.boxes, track.points, transforms, strict=True):
        corners = apply(transform, box[[[0, 1], [2, 1], [0, 3], [2, 3]]])
        boxes.append(np.concatenate((corners.min(axis=0), corners.max(axis=0))))
        points.append(apply(transform, marks))
    left, top, right, bottom = np.clip(np.median(np.array(boxes), axis=0), 0, size)
    inside = (math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom))
    middle: NDArray[np.float64] = np.median(np.array(points), axis=0)
    return (
        inside if inside[2] > inside[0] and inside[3] > inside[1] else None,
        tuple(round(float(value), 2) for value in middle.ravel()) or None,
    )


def _centred(media: Media, recipe: CropRecipe) -> list[Transform]:
    width, height = media.size
    transform = square_transform(width / 2.0, height / 2.0, min(width, height), recipe.size)
    return [transform] * media.frame_count


def _fps(job: CropJob) -> float | None:
    return float(frame_times(job.path)[2]) if job.kind == "video" else None
