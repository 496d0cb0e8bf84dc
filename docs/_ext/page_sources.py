"""What a page of the manual reads as: generated parts and files of the repository put in, links led to pages.

A page asks for a part with a line `<!-- generated: NAME -->`, a row of `PARTS`, and for a file outside docs/ with a
line `<!-- file: PATH -->`. On a plain view of the repository both are invisible.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cli_reference
import config_reference
import dataset_reference
import description_reference
import kernel_reference
import results

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
PARTS: dict[str, Callable[[], str]] = {
    "configuration": config_reference.config_reference,
    "commands": cli_reference.cli_reference,
    **{f"dataset {name}": partial(dataset_reference.reader_reference, name) for name in dataset_reference.readers()},
    "description": description_reference.description_reference,
    "backends": kernel_reference.backend_tables,
    "error bounds": kernel_reference.error_bounds,
    "goals": results.goal_tables,
    "scorecard": results.scorecard_table,
    "steps": results.step_table,
}
MARK = re.compile(r"^<!-- (generated|file): (.+) -->$", re.MULTILINE)
LINK = re.compile(r"(?<=\]\()([^)#\s:]+)(?=[)#])")


def expanded(text: str) -> str:
    """The text of a page in docs/ with its marks replaced; KeyError or OSError for what does not exist."""
    return relinked(MARK.sub(lambda match: _part(match[1], match[2]), text), DOCS)


def relinked(text: str, folder: Path) -> str:
    """`text` of a file in `folder` with its relative links as seen from docs/, files that a page shows by that page."""
    return LINK.sub(lambda match: _target(folder / match[1]), text)


def pages_of_files() -> dict[Path, str]:
    """Files outside docs/ that a page shows, and the name of the page."""
    return {
        ROOT / match[2]: page.name
        for page in sorted(DOCS.glob("*.md"))
        for match in MARK.finditer(page.read_text(encoding="utf-8"))
        if match[1] == "file"
    }


def _part(kind: str, name: str) -> str:
    if kind == "generated":
        return PARTS[name]()
    path = ROOT / name
    return relinked(path.read_text(encoding="utf-8"), path.parent)


def _target(path: Path) -> str:
    path = Path(os.path.normpath(path))
    return pages_of_files().get(path) or os.path.relpath(path, DOCS)
