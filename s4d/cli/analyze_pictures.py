"""`s4d analyze pictures`: what a fine-tuned model does inside, for `s4d report` to draw."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s4d.cli.output import AsJson, print_json, print_lines, print_table, relative

if TYPE_CHECKING:
    from s4d.analysis.pictures.record import Pictures


def pictures(
    run: Annotated[Path, typer.Argument(help="Folder of a fine-tuning run.", show_default=False)],
    samples: Annotated[int, typer.Option(min=10, max=5000, help="Most test samples in the map of features.")] = 600,
    as_json: AsJson = False,
) -> None:
    """Run the newest checkpoint over its test split and write pictures.npz into the run folder; then `s4d report`."""
    import torch

    from s4d.analysis.pictures.collect import collect_pictures
    from s4d.analysis.pictures.record import PICTURES_FILE, write_pictures

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = collect_pictures(run, samples=samples, device=device)
    path = run / PICTURES_FILE
    write_pictures(path, found)
    document = pictures_document(found)
    if as_json:
        print_json({"run": str(run), "file": str(path), **document})
        return
    print_table(
        ("source", "sample", "chosen as", "class", "predicted"),
        [
            (source.name, sample.sample_id, sample.rule, sample.label, f"{sample.prediction} {shares.max():.0%}")
            for source in found.sources
            for sample, shares in zip(source.drawn, source.probabilities, strict=True)
        ],
    )
    print_lines([f"wrote {relative(path)}; `s4d report {relative(run)}` draws it"])


def pictures_document(found: Pictures) -> dict[str, object]:
    """Checkpoint, numbers of the map of features and the drawn samples."""
    return {
        "checkpoint": found.checkpoint,
        "features": None if found.features is None else found.features.numbers,
        "drawn": {
            source.source: [
                {
                    "sample_id": sample.sample_id,
                    "rule": sample.rule,
                    "label": sample.label,
                    "prediction": sample.prediction,
                    "probability": float(shares.max()),
                }
                for sample, shares in zip(source.drawn, source.probabilities, strict=True)
            ]
            for source in found.sources
        },
    }
