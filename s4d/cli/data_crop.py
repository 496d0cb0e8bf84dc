"""`s4d data crop`: cut the faces out of a prepared dataset."""

from __future__ import annotations

import os
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s4d.cli.data import OnError
from s4d.cli.output import AsJson, print_json, print_lines, relative

if TYPE_CHECKING:
    from s4d.data.crop.finders import Finder
    from s4d.data.crop.run import CropReport

NAMED = 5


class Backend(StrEnum):
    """Where faces come from."""

    boxes = "boxes"
    yunet = "yunet"


class NoFace(StrEnum):
    """What to do about samples without a face."""

    error = "error"
    skip = "skip"
    middle = "center"


class Align(StrEnum):
    """What is brought into place."""

    eyes = "eyes"
    points = "points"
    none = "none"


class Per(StrEnum):
    """Whether the crop of a clip follows the face."""

    frame = "frame"
    clip = "clip"


class Edge(StrEnum):
    """What lies outside of the frame."""

    reflect = "reflect"
    black = "black"


Manifest = Annotated[Path, typer.Argument(help="Manifest of the uncropped media.", show_default=False)]
Out = Annotated[Path, typer.Option(help="Folder of crops to create or to continue.", show_default=False)]
From = Annotated[Backend, typer.Option(help="Faces from annotations, or from a detector.")]
Boxes = Annotated[
    Path | None,
    typer.Option(help="boxes: csv table, or a folder of OpenFace csv files; none: the manifest's boxes and points."),
]
Model = Annotated[Path | None, typer.Option(help="yunet: ONNX file of the model.", show_default=False)]
ModelSum = Annotated[str | None, typer.Option(help="yunet: take another version of the model, with this checksum.")]
Recipe = Annotated[str, typer.Option(help="eyes, points, box, or the id of a recipe; the options below change it.")]
AlignBy = Annotated[Align | None, typer.Option(help="Turned and scaled by these; none: a square around the box.")]
Size = Annotated[int | None, typer.Option(help="Side of the crop in pixels.")]
Margin = Annotated[float | None, typer.Option(help="Added on every side, as a part of the face's side.")]
EyeLine = Annotated[float | None, typer.Option(help="Height of the eyes from the top, 0 to 1.")]
PerWhat = Annotated[Per | None, typer.Option(help="The crop follows the face, or stands still over a clip.")]
Smooth = Annotated[int | None, typer.Option(help="Width in frames of the running median; 1: none.")]
Outside = Annotated[Edge | None, typer.Option(help="Outside of the frame: its mirror image, or black.")]
ImageFormat = Annotated[str | None, typer.Option(help="png, or jpg with its quality, such as jpg95.")]
IfNone = Annotated[NoFace, typer.Option(help="Samples without a face: stop, leave out, or take the frame's middle.")]
IfWrong = Annotated[OnError, typer.Option(help="Damaged media, wrong boxes: stop, or leave out.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes; 0: one for each core.")]


def crop(
    manifest: Manifest,
    *,
    out: Out,
    backend: From = Backend.boxes,
    boxes: Boxes = None,
    model: Model = None,
    model_sha256: ModelSum = None,
    recipe: Recipe = "eyes",
    align: AlignBy = None,
    size: Size = None,
    margin: Margin = None,
    eye_line: EyeLine = None,
    per: PerWhat = None,
    smooth: Smooth = None,
    edge: Outside = None,
    image_format: ImageFormat = None,
    no_face: IfNone = NoFace.error,
    on_error: IfWrong = OnError.error,
    workers: Workers = 0,
    as_json: AsJson = False,
) -> None:
    """Cut faces out, aligned and in one size, into a folder with media and a manifest of its own; resumable."""
    from s4d.cli.progress import show_progress
    from s4d.data.crop.recipe import build_recipe
    from s4d.data.crop.run import crop_manifest

    fields = {"size": size, "margin": margin, "eye_line": eye_line, "smooth": smooth, "image_format": image_format}
    choices = {name: choice and choice.value for name, choice in (("align", align), ("per", per), ("edge", edge))}
    chosen = build_recipe(recipe, **fields, **choices)
    finder = build_finder(backend, boxes=boxes, model=model, model_sha256=model_sha256)
    with show_progress("cropped") as progress:
        report = crop_manifest(
            manifest,
            out,
            chosen,
            finder,
            workers=workers or os.cpu_count() or 1,
            no_face=no_face.value,
            on_error=on_error.value,
            progress=progress,
        )
    for problem in report.failed:
        typer.echo(f"left out: {problem}", err=True)
    if as_json:
        print_json({**asdict(report), "manifest": relative(report.manifest)})
    else:
        print_lines(describe(report))


def build_finder(backend: Backend, *, boxes: Path | None, model: Path | None, model_sha256: str | None) -> Finder:
    """Where faces come from; UsageError for options of the other backend, DataError for files that cannot be used."""
    from s4d.data.crop.finders import DetectorFinder, RowFinder, open_annotations
    from s4d.errors import UsageError

    if backend is Backend.yunet:
        if boxes is not None:
            raise UsageError("--boxes: belongs to --backend boxes")
        if model is None:
            raise UsageError("--model: --backend yunet needs the path of a YuNet ONNX file; none is shipped")
        from s4d.data.crop.yunet import load_yunet

        return DetectorFinder(load_yunet(model, model_sha256))
    if model is not None or model_sha256 is not None:
        raise UsageError("--model, --model-sha256: belong to --backend yunet")
    return RowFinder() if boxes is None else open_annotations(boxes)


def describe(report: CropReport) -> list[str]:
    """The report for people: one line for what was written, one for each thing to know."""
    lines = [
        f"wrote {relative(report.manifest)}: {report.rows} samples from {report.media} media, recipe {report.recipe}"
        + (f" ({report.resumed} media cropped by an earlier run)" if report.resumed else "")
    ]
    if report.unaligned:
        lines.append(f"not aligned, having a box but no points: {report.unaligned} media")
    if report.filled_frames:
        lines.append(f"frames without a face, filled in from those around: {report.filled_frames} of {report.frames}")
    if report.centered:
        lines.append(f"without a face, middle of the frame taken: {_names(report.centered)}")
    if report.without_face:
        lines.append(f"without a face, left out: {_names(report.without_face)}")
    if report.failed:
        lines.append(f"damaged or wrong, left out: {len(report.failed)} media")
    return lines


def _names(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
    return f"{len(names)} media ({shown})"
