"""`s4d checkpoint export`: a model of ours as a file of another program."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from s4d.cli.output import AsJson, print_json, print_lines, relative


class Target(StrEnum):
    """What a model can be exported to."""

    HF_VIDEOMAE = "hf-videomae"
    TORCH_EXPORT = "torch-export"
    ONNX = "onnx"
    SAFETENSORS = "safetensors"


# Options that a form looks at; another one would be ignored without a word.
TAKEN = {
    Target.HF_VIDEOMAE: ("head", "check_with"),
    Target.TORCH_EXPORT: ("head", "modality", "batch"),
    Target.ONNX: ("head", "modality", "batch"),
    Target.SAFETENSORS: (),
}


class Modality(StrEnum):
    """What an encoder without heads is shown."""

    IMAGE = "image"
    VIDEO = "video"


def export(
    checkpoint: Annotated[Path, typer.Argument(help="Run, checkpoint or model folder.", show_default=False)],
    *,
    to: Annotated[Target, typer.Option(metavar="FORM", help=f"One of {', '.join(Target)}.", show_default=False)],
    out: Annotated[Path, typer.Option(help="File to create; for hf-videomae a folder.", show_default=False)],
    head: Annotated[str | None, typer.Option(help="Head to export; left out: the only one that fits.")] = None,
    modality: Annotated[Modality, typer.Option(help="Input of an encoder without heads.")] = Modality.VIDEO,
    batch: Annotated[int, typer.Option(min=1, help="Samples in one call of a program.")] = 1,
    check_with: Annotated[
        str | None, typer.Option(help="Python that has transformers: hf-videomae is also run there.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a checkpoint for another program: compared with the source first, kept only if it agrees.

    hf-videomae: a folder for transformers (no experts). torch-export, onnx: uint8 frames of one shape in, logits out.

    safetensors: one file under the names of the released S4D code.
    """
    from s4d.errors import UsageError
    from s4d.models.export.source import Wanted, open_source
    from s4d.models.export.table import EXPORTERS

    wanted = Wanted(head=head, modality=modality.value, batch=batch, check_with=check_with)
    for name in ("head", "modality", "batch", "check_with"):
        if name not in TAKEN[to] and getattr(wanted, name) != getattr(Wanted(), name):
            raise UsageError(f"command line: --{name.replace('_', '-')}: --to {to.value} has no use for it")
    report = EXPORTERS[to.value](open_source(checkpoint), out, wanted)
    if as_json:
        print_json(
            {
                "out": relative(out),
                "to": to.value,
                "compared": report.compared,
                "largest_difference": report.largest_difference,
                "notes": report.notes,
            }
        )
        return
    print_lines([f"compared: {report.compared}; largest difference {report.largest_difference:.2g}"])
    print_lines([*(f"note: {note}" for note in report.notes), f"wrote {relative(out)}"])
