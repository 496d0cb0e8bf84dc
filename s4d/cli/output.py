"""What commands write to stdout: text for people through rich, or one JSON document for programs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from s4d.errors import UNPRINTED
from s4d.json_text import to_json

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


def print_json(document: object) -> None:
    """Print `document` as JSON; numbers that are not finite become null."""
    text = to_json(document)
    # JSON's own way to write them; line ends stand between values only.
    sys.stdout.write(UNPRINTED.sub(lambda match: match[0] if match[0] == "\n" else f"\\u{ord(match[0]):04x}", text))


def print_lines(lines: Sequence[str]) -> None:
    """Print lines without markup or wrapping; what a terminal would obey is shown instead."""
    sys.stdout.write("".join(f"{shown(line)}\n" for line in lines))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table that fits the terminal; in a pipe it is never cut."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(shown(str(cell)) for cell in row), style=None)
    console = Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 200)
    console.print(table)


def shown(text: str) -> str:
    """`text`, which may stem from names in files, without control characters: `\\x1b` for an escape."""
    return UNPRINTED.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def relative(path: Path | str) -> str:
    """`path` as seen from the working directory when it lies below it."""
    path = Path(path)
    try:
        return os.fspath(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return os.fspath(path)
