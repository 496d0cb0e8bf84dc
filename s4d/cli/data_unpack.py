"""`s4d data unpack`: image files from the pixels that FER2013 has in a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from s4d.cli.output import AsJson, print_json, print_lines, relative


def unpack(
    root: Annotated[Path, typer.Argument(help="Folder with fer2013.csv and fer2013new.csv.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Write the images of FERPlus, which come as a table of pixels, to ROOT/images: all of them or none."""
    from s4d.datasets.ferplus_pixels import FOLDER, unpack

    count = unpack(root)
    if as_json:
        print_json({"folder": relative(root / FOLDER), "images": count})
        return
    print_lines([f"wrote {count} images to {relative(root / FOLDER)}"])
