"""`s4d checkpoint`: bring released weights in, look at what a checkpoint holds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from s4d.cli.output import AsJson, print_json, print_lines, print_table, relative

Classes = Annotated[
    list[str] | None,
    typer.Option(help="HEAD=name,name,...: class names of a head in order; once per head.", show_default=False),
]


def import_file(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Released checkpoint.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Model folder to create.", show_default=False)],
    classes: Classes = None,
    as_json: AsJson = False,
) -> None:
    """Turn a released checkpoint (plain tensors only) into a model folder that `model.init_from` takes."""
    from s4d.models.release import import_release

    report = import_release(path, out, classes=parse_classes(classes or []))
    if as_json:
        print_json(
            {
                "folder": relative(out),
                "mapped": report.mapped,
                "transformed": report.transformed,
                "unused": report.unused,
                "missing": report.missing,
            }
        )
        return
    print_lines([report.summary(), *(f"unused: {name}: {why}" for name, why in report.unused.items())])
    print_lines([f"wrote {relative(out)}"])


def inspect(
    folder: Annotated[Path, typer.Argument(help="Run, checkpoint or model folder.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Show what a checkpoint is and which tensors it holds; only headers are read."""
    from safetensors import SafetensorError, safe_open

    from s4d.errors import DataError
    from s4d.models.folder import MODEL_FILE, find_model, read_config

    model = find_model(folder)
    config = read_config(model)
    try:
        with safe_open(model / MODEL_FILE, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            tensors = {name: (part.get_dtype(), list(part.get_shape())) for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise DataError(f"{model / MODEL_FILE}: not a readable safetensors file: {error}") from error
    parameters = sum(math.prod(shape) for _, shape in tensors.values())
    if as_json:
        listed = {name: {"dtype": dtype, "shape": shape} for name, (dtype, shape) in tensors.items()}
        print_json({"folder": relative(model), "config": config, "parameters": parameters, "tensors": listed})
        return
    print_lines([f"{relative(model)}: {len(tensors)} tensors, {parameters:,} parameters"])
    print_lines([f"{key}: {value}" for key, value in config.items()])
    print_table(("tensor", "type", "shape"), [(n, d, " x ".join(map(str, s))) for n, (d, s) in tensors.items()])


def parse_classes(entries: list[str]) -> dict[str, tuple[str, ...]]:
    """`HEAD=a,b,c` entries as class names per head; UsageError for another form."""
    from s4d.errors import UsageError

    classes: dict[str, tuple[str, ...]] = {}
    for entry in entries:
        head, equals, names = entry.partition("=")
        parsed = tuple(name.strip() for name in names.split(","))
        if not equals or not head or not all(parsed) or head in classes:
            raise UsageError(f"command line: --classes {entry!r}: expected HEAD=name,name,... once per head")
        classes[head] = parsed
    return classes
