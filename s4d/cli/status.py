"""`s4d status`: is a run done, and how far has it come?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from s4d.cli.output import AsJson, print_json, print_lines
from s4d.errors import DataError


def status(
    run_dir: Annotated[Path, typer.Argument(help="Run folder.", show_default=False)], as_json: AsJson = False
) -> None:
    """Tell whether a run is done (exit 0) or not (exit 1), whatever its launcher ended with."""
    found = state_of(run_dir)
    if as_json:
        print_json(found)
    else:
        reached = f"step {found['step']} logged, newest checkpoint {found['checkpoint'] or 'none'}"
        cause = [f"last failure: {found['failure']}"] if found["failure"] and not found["done"] else []
        print_lines([f"{run_dir}: {'done' if found['done'] else 'not done'}, {reached}", *cause])
    if not found["done"]:
        raise typer.Exit(1)


def state_of(run_dir: Path) -> dict[str, Any]:
    """`done`, last logged `step`, newest `checkpoint` by name, cause of the last `failure`; DataError if damaged."""
    from engine.run_folder import METRICS, last_step

    if not run_dir.is_dir():
        raise DataError(f"{run_dir}: no such run folder")
    failure = _read(run_dir / "failure.json")
    return {
        "done": _read(run_dir / "finished.json") is not None,
        "step": last_step(run_dir / METRICS),
        "checkpoint": max((path.name for path in run_dir.glob("checkpoints/step-*")), default=None),
        "failure": failure["cause"] if failure else None,
    }


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}") from error
    if not isinstance(found, dict) or (path.name == "failure.json" and not isinstance(found.get("cause"), str)):
        raise DataError(f"{path}: not a record of this project")
    return found
