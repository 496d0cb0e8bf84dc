"""The page and the document of a correlation study: one part after another, each with its numbers and pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s4d.analysis.correlation.subjects import Cast
from s4d.analysis.html_page import render_page
from s4d.analysis.picture import Picture
from s4d.atomic_files import write_atomically
from s4d.json_text import finite, to_json

TEMPLATE = "correlation/page.html.j2"
# Pixels; wider pictures have a row of their own.
WIDE = 520
PAGE, NUMBERS = "correlation.html", "correlation.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows of text under the names of their columns; the first cell of a row names it."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One part of the study: `numbers` are all it measured, under `key` in the document; `method` is one paragraph.

    `headline` has the few numbers that the top of the page shows, by what they are.
    """

    key: str
    title: str
    method: str
    numbers: dict[str, Any]
    headline: dict[str, str]
    tables: tuple[Table, ...]
    pictures: tuple[Picture, ...]


def document(cast: Cast, split: str, shown: dict[str, dict[str, int]], parts: Sequence[Part]) -> dict[str, Any]:
    """Every number of the study, as plain values."""
    values = finite(
        {
            "runs": [
                {"run": subject.name, "kind": subject.kind, "model": os.path.relpath(subject.model.folder)}
                for subject in cast.subjects
            ],
            "split": split,
            "static": {"head": cast.images, "classes": list(cast.main.model.classes[cast.images])},
            "dynamic": {"head": cast.clips, "classes": list(cast.main.model.classes[cast.clips])},
            "classes": cast.shared.to_dict(),
            "shown": shown,
            **{part.key: part.numbers for part in parts},
        }
    )
    assert isinstance(values, dict)
    return values


def write_study(
    out: Path, cast: Cast, split: str, shown: dict[str, dict[str, int]], parts: Sequence[Part]
) -> tuple[Path, dict[str, Any]]:
    """Write correlation.html and correlation.json to the folder; returns the page's path and the document."""
    numbers = document(cast, split, shown, parts)
    page = render_page(
        TEMPLATE,
        title=f"SFER and DFER in {cast.main.name}",
        tiles=[(value, name) for part in parts for name, value in part.headline.items()],
        notes=_notes(cast, split, shown),
        parts=parts,
        wide=WIDE,
    )
    write_atomically(out / NUMBERS, to_json(numbers))
    write_atomically(out / PAGE, page)
    return out / PAGE, numbers


def _notes(cast: Cast, split: str, shown: dict[str, dict[str, int]]) -> list[str]:
    """What was compared, in a few lines."""
    runs = "; ".join(f"{subject.name} ({subject.kind})" for subject in cast.subjects)
    lines = [
        f"Runs: {runs}.",
        f"Split {split}: {shown['images']['samples']} images of {cast.images}, "
        f"{shown['clips']['samples']} clips of {cast.clips}.",
        f"Classes matched by name: {', '.join(cast.shared.names)}.",
    ]
    for side, names in (("static", cast.shared.only_static), ("dynamic", cast.shared.only_dynamic)):
        if names:
            lines.append(f"Only the {side} head has {', '.join(names)}: left out.")
    unreadable = {name: item["unreadable"] for name, item in shown.items() if item["unreadable"]}
    if unreadable:
        told = ", ".join(f"{count} of the {name}" for name, count in unreadable.items())
        lines.append(f"Unreadable and left out: {told}.")
    return lines
