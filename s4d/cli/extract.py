"""`s4d extract`: features of all samples of manifests by a trained model."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from s4d.cli.data import OnError
from s4d.cli.output import AsJson, print_json, print_lines, relative


class Kind(StrEnum):
    """Which features."""

    pooled = "pooled"
    tokens = "tokens"


class Format(StrEnum):
    """File formats."""

    npz = "npz"
    parquet = "parquet"


class Precision(StrEnum):
    """Number formats of features."""

    float32 = "float32"
    float16 = "float16"


def extract(
    model: Annotated[Path, typer.Argument(help="Fine-tuning run, checkpoint or model folder.", show_default=False)],
    *,
    data: Annotated[
        list[Path],
        typer.Option(help="A manifest, or a configuration for those of its sources; repeatable.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the files and their index.", show_default=False)],
    kind: Annotated[
        Kind, typer.Option(help="pooled: one row a sample, what heads see; tokens: the last block, of one view.")
    ] = Kind.pooled,
    file_format: Annotated[Format, typer.Option("--format", help="Format of the files.")] = Format.npz,
    precision: Annotated[Precision, typer.Option(help="Numbers of the features.")] = Precision.float32,
    shard: Annotated[int, typer.Option(min=1, help="Samples in one file.")] = 256,
    head: Annotated[
        str | None,
        typer.Option(help="Whose frames and views to take, where heads differ in them.", show_default=False),
    ] = None,
    on_error: Annotated[OnError, typer.Option(help="Unreadable media: stop, or leave them out.")] = OnError.error,
    workers: Annotated[int, typer.Option(min=0, help="Decoding processes; 0: decode in this one.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Write features of every sample, whatever its split; the same command again continues where it was cut short."""
    import torch

    from s4d.analysis.extract.job import Extraction
    from s4d.analysis.extract.job import extract as run
    from s4d.analysis.extract.shards import INDEX
    from s4d.cli.progress import show_progress

    wanted = Extraction(
        model=model,
        data=tuple(data),
        out=out,
        kind=kind.value,
        dtype=precision.value,
        file_format=file_format.value,
        shard=shard,
        head=head,
        skip_unreadable=on_error is OnError.skip,
        workers=workers,
    )
    with show_progress("extracted") as progress:
        index = run(wanted, device="cuda" if torch.cuda.is_available() else "cpu", progress=progress)
    if as_json:
        print_json(index)
        return
    samples = sum(entry["samples"] for entry in index["files"])
    left_out = [problem for entry in index["files"] for problem in entry["unreadable"]]
    print_lines(
        [
            *(f"left out: {problem}" for problem in left_out),
            f"samples: {samples}, files: {len(index['files'])}, left out: {len(left_out)}",
            f"wrote {relative(out / INDEX)}",
        ]
    )
