"""Crop a whole manifest into a folder: media, a new manifest beside them, and counts of what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from s4d.data.crop.cutting import CropJob, Cropped, Cropper, NoFace, OnError
from s4d.data.crop.faces import Face
from s4d.data.crop.finders import Finder
from s4d.data.crop.journal import open_journal
from s4d.data.crop.media_files import VIDEO_SUFFIX, remove
from s4d.data.crop.recipe import CropRecipe
from s4d.data.manifest import ManifestRow
from s4d.data.manifest_io import Manifest, fingerprint, read_manifest, write_manifest
from s4d.data.media_limits import media_path
from s4d.data.workers import in_order
from s4d.errors import DataError, UsageError

MEDIA_FOLDER = "media"
ASIDE_FOLDER = ".unfinished"

# Called after each job with the number of jobs that are done, and of all.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class CropReport:
    """Counts are of media; a medium that several folds name is cropped once.

    `resumed` were finished by an earlier run; `unaligned` were cut by a box since there were no points, though the
    recipe aligns; `filled_frames` lie in clips with a face but had none of their own; `without_face` and `failed` name
    what the policies let pass, the latter with the reason.
    """

    manifest: Path
    recipe: str
    rows: int
    media: int
    resumed: int
    unaligned: int
    frames: int
    filled_frames: int
    centered: tuple[str, ...]
    without_face: tuple[str, ...]
    failed: tuple[str, ...]


def crop_manifest(
    manifest_path: Path,
    out: Path,
    recipe: CropRecipe,
    finder: Finder,
    *,
    workers: int = 0,
    no_face: NoFace = "error",
    on_error: OnError = "error",
    progress: Progress = lambda done, total: None,
) -> CropReport:
    """Crop every medium of a manifest into the folder `out` and write `out`/manifest.csv (or .parquet, as it came).

    Continues where an earlier call with the same recipe and faces stopped. DataError names the first medium or
    annotation that is wrong, or without a face, unless the policies say otherwise.
    """
    manifest = read_manifest(manifest_path)
    if manifest.crop:
        raise UsageError(f"{manifest_path}: cropped already, with recipe {manifest.crop}")
    jobs, of_row = plan_jobs(manifest, manifest_path, recipe)
    settings = {"recipe": recipe.recipe_id, "faces": finder.origin}
    with open_journal(out, settings) as journal:
        remove(out / ASIDE_FOLDER)
        results: list[Cropped | None] = [_kept(journal.finished(job), out / job.target, no_face) for job in jobs]
        todo = [index for index, result in enumerate(results) if result is None]
        cropper = Cropper(
            jobs=jobs,
            recipe=recipe,
            finder=finder,
            out=out,
            aside=out / ASIDE_FOLDER,
            no_face=no_face,
            on_error=on_error,
        )
        progress(len(jobs) - len(todo), len(jobs))
        for done, (index, result) in enumerate(_results(cropper, todo, workers), start=len(jobs) - len(todo) + 1):
            results[index] = result
            if result.status != "failed":
                journal.add(jobs[index], result)
            progress(done, len(jobs))
        remove(out / ASIDE_FOLDER)
        final = [result for result in results if result is not None]
        written = _write(manifest, manifest_path, out, recipe, _new_rows(manifest, jobs, of_row, final))
    return _report(written, jobs, final, resumed=len(jobs) - len(todo), recipe=recipe)


def plan_jobs(manifest: Manifest, manifest_path: Path, recipe: CropRecipe) -> tuple[list[CropJob], list[int]]:
    """One job for each medium and face, and the job of each row. DataError for a path that leads out of the root."""
    jobs: list[CropJob] = []
    known: dict[tuple[str, Face | None], int] = {}
    per_path: dict[str, int] = {}
    of_row: list[int] = []
    for number, row in enumerate(manifest.rows, start=1):
        where = f"{manifest_path}: row {number} (sample {row.sample_id!r})"
        face = None
        if row.face_box is not None or row.face_points is not None:
            face = Face(box=row.face_box, points=row.face_points, where="")
        key = (row.path, face)
        if key not in known:
            known[key] = len(jobs)
            per_path[row.path] = per_path.get(row.path, 0) + 1
            jobs.append(
                CropJob(
                    names=tuple(dict.fromkeys((row.sample_id, row.path))),
                    path=media_path(manifest.root, row.path, where),
                    kind=row.kind,
                    face=None if face is None else replace(face, where=where),
                    target=target_of(row, recipe, per_path[row.path]),
                    where=where,
                )
            )
        of_row.append(known[key])
    _refuse_clashes(jobs)
    return jobs, of_row


def target_of(row: ManifestRow, recipe: CropRecipe, number: int) -> str:
    """Where the crop of a row goes: its own path below `media`, with the suffix of what is written.

    A second face in the same medium gets a number.
    """
    path = PurePosixPath(row.path)
    name = path.name if number == 1 else f"{path.stem}.face{number}{path.suffix}"
    suffix = {"image": recipe.suffix, "video": VIDEO_SUFFIX, "frames": ""}[row.kind]
    if not name.endswith(suffix):
        name += suffix
    return str(MEDIA_FOLDER / path.parent / name)


def _refuse_clashes(jobs: Sequence[CropJob]) -> None:
    """DataError for two crops that would have one name, or lie one inside of the other."""
    owners = {job.target: job for job in jobs}
    for job in jobs:
        parents = [str(parent) for parent in PurePosixPath(job.target).parents]
        other = owners[job.target] if owners[job.target] is not job else None
        other = other or next((owners[parent] for parent in parents if parent in owners), None)
        if other is not None:
            raise DataError(f"{job.where}: field 'path': its crop {job.target} clashes with that of {other.where}")


def _kept(result: Cropped | None, target: Path, no_face: NoFace) -> Cropped | None:
    """The result of an earlier run, if its files are there and the policy is still the same."""
    if result is None or (result.status == "none" and no_face != "skip"):
        return None
    if result.status == "center" and no_face != "center":
        return None
    return result if result.status == "none" or target.exists() else None


def _results(cropper: Cropper, todo: Sequence[int], workers: int) -> Iterator[tuple[int, Cropped]]:
    stream = in_order(cropper, todo, min(workers, len(todo)))
    try:
        yield from zip(todo, stream, strict=True)
    finally:
        stream.close()


def _new_rows(
    manifest: Manifest, jobs: Sequence[CropJob], of_row: Sequence[int], results: Sequence[Cropped]
) -> tuple[ManifestRow, ...]:
    rows = []
    for row, number in zip(manifest.rows, of_row, strict=True):
        result = results[number]
        if result.status in ("face", "center"):
            rows.append(
                replace(
                    row,
                    path=jobs[number].target,
                    frame_count=None if row.kind == "image" else result.frames,
                    fps=row.fps if row.fps is not None else result.fps,
                    face_box=result.box,
                    face_points=result.points,
                )
            )
    return tuple(rows)


def _write(
    manifest: Manifest, manifest_path: Path, out: Path, recipe: CropRecipe, rows: tuple[ManifestRow, ...]
) -> Path:
    if not rows:
        raise DataError(f"{manifest_path}: nothing left to write: every sample was left out")
    path = out / f"manifest{manifest_path.suffix}"
    write_manifest(
        Manifest(
            rows=rows,
            root=Path(),
            dataset=manifest.dataset,
            classes=manifest.classes,
            fingerprint=fingerprint(rows, manifest.classes, recipe.recipe_id),
            crop=recipe.recipe_id,
        ),
        path,
    )
    return path


def _report(
    manifest: Path, jobs: Sequence[CropJob], results: Sequence[Cropped], *, resumed: int, recipe: CropRecipe
) -> CropReport:
    pairs = list(zip(jobs, results, strict=True))
    cut = [result for result in results if result.status == "face"]
    return CropReport(
        manifest=manifest,
        recipe=recipe.recipe_id,
        rows=len(read_manifest(manifest).rows),
        media=len(jobs),
        resumed=resumed,
        unaligned=0 if recipe.align == "none" else sum(not result.aligned for result in cut),
        frames=sum(result.frames for result in results),
        filled_frames=sum(result.missed for result in cut),
        centered=tuple(job.names[0] for job, result in pairs if result.status == "center"),
        without_face=tuple(job.names[0] for job, result in pairs if result.status == "none"),
        failed=tuple(result.problem for result in results if result.status == "failed"),
    )
