"""`s4d predict`: emotion of somebody's own pictures and videos, as a whole and over time."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s4d.cli.out_folder import refuse_unwritable
from s4d.cli.output import AsJson, print_json, print_lines, print_table, relative

if TYPE_CHECKING:
    from s4d.data.crop.finders import Finder
    from s4d.inference.job import Job
    from s4d.inference.prediction import Prediction


class Crop(StrEnum):
    """Where faces are."""

    none = "none"
    boxes = "boxes"
    yunet = "yunet"


class NoFace(StrEnum):
    """What to do about inputs without a face."""

    error = "error"
    middle = "center"


class Pointer(StrEnum):
    """Which checkpoint of a run."""

    latest = "latest"
    best = "best"


Inputs = Annotated[
    list[Path],
    typer.Argument(metavar="INPUT", help="Pictures, videos, folders with all below them.", show_default=False),
]
Checkpoint = Annotated[Path, typer.Option(help="Run, checkpoint or model folder.", show_default=False)]
Source = Annotated[
    str | None, typer.Option(help="Head by the name of its source; left out: by the input's kind.", show_default=False)
]
Which = Annotated[Pointer, typer.Option(help="Which checkpoint of a run.")]
CropBy = Annotated[Crop, typer.Option(help="Faces from a table, from a detector; none: inputs are faces already.")]
Boxes = Annotated[
    Path | None,
    typer.Option(help="boxes: csv table, or a folder of OpenFace csv files; in upright pixels.", show_default=False),
]
Model = Annotated[Path | None, typer.Option(help="yunet: ONNX file of the model.", show_default=False)]
ModelSum = Annotated[
    str | None, typer.Option(help="yunet: take another version of the model, with this checksum.", show_default=False)
]
Recipe = Annotated[
    str | None, typer.Option(help="Crop recipe or its id; left out: the checkpoint's.", show_default=False)
]
IfNone = Annotated[NoFace, typer.Option(help="Inputs without a face: no answer, or take the frame's middle.")]
WindowLength = Annotated[
    float | None, typer.Option(help="Seconds of a window; left out: as the model's clips.", show_default=False)
]
Hop = Annotated[
    float | None, typer.Option(help="Seconds from one window to the next; left out: half.", show_default=False)
]
Out = Annotated[Path, typer.Option(help="Folder of the results.")]
Annotate = Annotated[bool, typer.Option("--annotate", help="Also write a video with the answer beside the picture.")]
FrameFolders = Annotated[bool, typer.Option("--frames", help="A folder that holds pictures is one clip.")]


def predict(
    inputs: Inputs,
    *,
    checkpoint: Checkpoint,
    source: Source = None,
    pointer: Which = Pointer.latest,
    crop: CropBy = Crop.none,
    boxes: Boxes = None,
    model: Model = None,
    model_sha256: ModelSum = None,
    recipe: Recipe = None,
    no_face: IfNone = NoFace.error,
    window: WindowLength = None,
    hop: Hop = None,
    out: Out = Path("predictions"),
    annotate: Annotate = False,
    frames: FrameFolders = False,
    as_json: AsJson = False,
) -> None:
    """Predict pictures and videos: JSON, a table over time and a plot for each, a summary of all. See docs/predict.md.

    An input without an answer is named and counted, the others are done; status 1 at the end.
    """
    from s4d.data.crop.recipe import named
    from s4d.errors import UsageError
    from s4d.inference.inputs import find_inputs
    from s4d.inference.job import Job, Request
    from s4d.inference.model import S4D

    if recipe is not None and crop is Crop.none:
        raise UsageError("--recipe: needs --crop boxes or yunet")
    refuse_unwritable(out)
    request = Request(
        out=out,
        source=source,
        finder=_finder(crop, boxes=boxes, model=model, model_sha256=model_sha256),
        recipe=None if recipe is None else named(recipe),
        no_face=no_face.value,
        window=window,
        hop=hop,
        annotate=annotate,
    )
    found = find_inputs(inputs, frame_folders=frames)
    if found.passed_over:
        typer.echo(f"passed over: {found.passed_over} files that are neither pictures nor videos by name", err=True)
    job = Job(S4D.from_pretrained(checkpoint, pointer=pointer.value), request)
    single = len(inputs) == 1 and not inputs[0].is_dir()
    _run(job, found.inputs, single=single, as_json=as_json)


def _run(job: Job, items: list[Any], *, single: bool, as_json: bool) -> None:
    """Predict, write and print; DataError at the end where inputs had no answer."""
    from s4d.atomic_files import write_atomically
    from s4d.cli.progress import show_progress
    from s4d.errors import DataError
    from s4d.inference.results import SUMMARY, summary_csv

    rows: list[tuple[str, Prediction | str]] = []
    documents: list[dict[str, Any]] = []
    files: list[str] = []
    with show_progress("views" if single else "inputs") as progress:
        for number, item in enumerate(items):
            try:
                answer = job.run(item, progress) if single else job.run(item)
            except DataError as error:
                if single:
                    raise
                rows.append((item.name, str(error)))
                typer.echo(f"no answer: {error}", err=True)
            else:
                rows.append((item.name, answer.prediction))
                documents.append(answer.document)
                files += [relative(path) for path in answer.files]
            if not single:
                progress(number + 1, len(items))
    failed = [(name, answer) for name, answer in rows if isinstance(answer, str)]
    if not single:
        write_atomically(job.request.out / SUMMARY, summary_csv(rows))
        files.append(relative(job.request.out / SUMMARY))
    if as_json:
        problems = [{"input": name, "problem": problem} for name, problem in failed]
        print_json({"predictions": documents, "failed": problems, "files": files})
    else:
        print_table(
            ("input", "head", "label", "probability", "windows"),
            [
                (name, answer.source, answer.label, f"{answer.probability:.3f}", len(answer.windows))
                for name, answer in rows
                if not isinstance(answer, str)
            ],
        )
        print_lines([f"wrote {files[0]} and {len(files) - 1} more" if len(files) > 1 else f"wrote {files[0]}"])
    if failed:
        raise DataError(f"{len(failed)} of {len(items)} inputs have no answer, the first is {failed[0][0]}")


def _finder(crop: Crop, *, boxes: Path | None, model: Path | None, model_sha256: str | None) -> Finder | None:
    """Where faces are; UsageError for options that belong to another choice, DataError for files that cannot be."""
    from s4d.data.crop.finders import DetectorFinder, open_annotations
    from s4d.errors import UsageError

    if boxes is not None and crop is not Crop.boxes:
        raise UsageError("--boxes: belongs to --crop boxes")
    if (model is not None or model_sha256 is not None) and crop is not Crop.yunet:
        raise UsageError("--model, --model-sha256: belong to --crop yunet")
    if crop is Crop.none:
        return None
    if crop is Crop.boxes:
        if boxes is None:
            raise UsageError("--boxes: --crop boxes needs a csv table, or a folder of OpenFace csv files")
        return open_annotations(boxes)
    if model is None:
        raise UsageError("--model: --crop yunet needs the path of a YuNet ONNX file; none is shipped")
    from s4d.data.crop.yunet import load_yunet

    return DetectorFinder(load_yunet(model, model_sha256))
