"""`s4d config`: what a configuration file resolves to, which fields exist, how two files differ."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s4d.cli.completion import complete_config
from s4d.cli.output import AsJson, print_document, print_json, print_lines

if TYPE_CHECKING:
    from s4d.config import Config
    from s4d.config_yaml import Value

File = Annotated[Path, typer.Argument(help="Configuration file.", show_default=False, autocompletion=complete_config)]
Overrides = Annotated[list[str] | None, typer.Argument(help="section.key=value ...", show_default=False)]


def show(
    path: File,
    overrides: Overrides = None,
    ranks: Annotated[int, typer.Option(min=1, help="Processes that share a step.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Print the resolved configuration (defaults, recipe, file and overrides together) and its batch arithmetic."""
    from s4d.config import blamed_on, load
    from s4d.config_recipes import deviations
    from s4d.config_yaml import dump_yaml

    config = load(path, overrides)
    values = config.model_dump(mode="json")
    with blamed_on(path, overrides or []):
        differing, batches = deviations(values), _batch_arithmetic(config, ranks)
    if as_json:
        print_json({"config": values, "deviations": differing, "batches": batches})
        return
    remarks = [f"recipe {config.recipe}", *(f"differs from it: {line}" for line in differing), *batches]
    print_lines([f"# {line}" for line in remarks], under="#   ")
    print_document(dump_yaml(values).rstrip("\n").split("\n"))


def schema() -> None:
    """Print the JSON Schema of configuration files."""
    from s4d.config import Config

    print_json(Config.model_json_schema())


def diff(
    first: File,
    second: Annotated[
        Path,
        typer.Argument(help="Configuration file to compare with.", show_default=False, autocompletion=complete_config),
    ],
    as_json: AsJson = False,
) -> None:
    """List the fields in which two resolved configurations differ, and whether a run may be continued so."""
    from s4d.config import Config, load
    from s4d.config_drift import may_change

    left, right = (flatten(load(path).model_dump(mode="json")) for path in (first, second))
    changed = {key: (left.get(key), right.get(key)) for key in {**left, **right} if left.get(key) != right.get(key)}
    if as_json:
        entries = {key: (*pair, may_change(Config, key, *pair)) for key, pair in changed.items()}
        print_json({key: {"first": a, "second": b, "resume": free} for key, (a, b, free) in entries.items()})
        return
    words = {True: "may change in a run", False: "makes another run"}
    lines = [
        f"{key}: {_text(pair[0])} -> {_text(pair[1])} ({words[may_change(Config, key, *pair)]})"
        for key, pair in changed.items()
    ]
    print_lines(lines or ["no difference"])


def flatten(value: Value, prefix: str = "") -> dict[str, Value]:
    """Dotted keys of nested mappings and of lists of mappings; other lists are leaves."""
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        items = [(str(index), item) for index, item in enumerate(value)]
    else:
        return {prefix: value}
    flat: dict[str, Value] = {}
    for key, item in items:
        flat.update(flatten(item, f"{prefix}.{key}" if prefix else key))
    return flat or {prefix: value}


def _batch_arithmetic(config: Config, ranks: int) -> list[str]:
    """The derived numbers of the run; they need the manifests."""
    absent = [source.manifest for source in config.data.sources if not Path(source.manifest).is_file()]
    if absent:
        return [f"batch arithmetic: unknown without {', '.join(absent)}"]
    from s4d.data.plan import build_plan

    return build_plan(config, world_size=ranks).summary()


def _text(value: Value) -> str:
    return "null" if value is None else str(value)
