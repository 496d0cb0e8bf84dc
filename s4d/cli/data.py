"""`s4d data`: generated faces and manifests."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from s4d.cli.completion import complete_dataset
from s4d.cli.output import AsJson, print_json, print_lines, relative


def synth(
    out: Annotated[Path, typer.Option(help="Folder to create.", show_default=False)],
    clips: Annotated[int, typer.Option(min=1, help="Labelled clips; a third as many unlabelled ones.")] = 700,
    images: Annotated[int, typer.Option(min=1, help="Images.")] = 1400,
    identities: Annotated[int, typer.Option(min=5, help="People; disjoint between train and test.")] = 120,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same files.")] = 0,
) -> None:
    """Render parametric faces as real files: mp4 tree, JPEG tree with list, frame folders with folds."""
    from s4d.synth import synthesize

    report = synthesize(out, clips=clips, images=images, identities=identities, seed=seed)
    print_lines(
        [
            f"wrote {report.images} images, {report.clips} labelled and {report.pretrain_clips} unlabelled clips of "
            f"{identities} people to {relative(out)}",
            f"contact sheet: {relative(report.contact_sheet)}",
        ]
    )


class OnError(StrEnum):
    """What to do about damaged media."""

    error = "error"
    skip = "skip"


def prepare(
    dataset: Annotated[
        str, typer.Argument(help="Name of the dataset's layout.", show_default=False, autocompletion=complete_dataset)
    ],
    root: Annotated[Path, typer.Argument(help="Folder that holds the dataset.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Manifest to write (.parquet or .csv).", show_default=False)],
    *,
    fold: Annotated[int | None, typer.Option(min=1, help="Only this fold; all folds when left out.")] = None,
    labels: Annotated[
        str | None, typer.Option(help="Public order of the classes: s4d, mae-dfer or dfer-clip.", show_default="s4d")
    ] = None,
    media: Annotated[
        str | None,
        typer.Option(help="Folder of the media below ROOT, where there are several forms.", show_default=False),
    ] = None,
    on_error: Annotated[OnError, typer.Option(help="Empty or cut media: stop, or leave them out.")] = OnError.error,
    as_json: AsJson = False,
) -> None:
    """Write the manifest of a dataset: one row per sample, class names instead of numbers."""
    from s4d.data.manifest_io import prepare_manifest

    manifest = prepare_manifest(
        dataset, root, out, fold, labels=labels, media=media, skip_damaged=on_error is OnError.skip
    )
    for problem in manifest.left_out:
        typer.echo(f"left out: {problem}", err=True)
    splits = Counter(row.split for row in manifest.rows)
    if as_json:
        print_json(
            {
                "manifest": relative(out),
                "dataset": manifest.dataset,
                "rows": len(manifest.rows),
                "splits": splits,
                "classes": manifest.classes,
                "fingerprint": manifest.fingerprint,
                "left_out": manifest.left_out,
            }
        )
        return
    counted = ", ".join(f"{count} {split}" for split, count in splits.items())
    damaged = f", {len(manifest.left_out)} media left out" if manifest.left_out else ""
    print_lines(
        [f"wrote {relative(out)}: {len(manifest.rows)} samples ({counted}), {len(manifest.classes)} classes{damaged}"]
    )
