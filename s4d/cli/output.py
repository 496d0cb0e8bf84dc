"""What commands write to stdout: text for people, or one JSON document for programs.

Text fits the terminal, and 80 columns where there is none; `COLUMNS` sets another width.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from s4d.errors import UNPRINTED
from s4d.json_text import to_json

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]

NARROWEST = 40


def print_json(document: object) -> None:
    """Print `document` as JSON; numbers that are not finite become null."""
    text = to_json(document)
    # JSON's own way to write them; line ends stand between values only.
    sys.stdout.write(UNPRINTED.sub(lambda match: match[0] if match[0] == "\n" else f"\\u{ord(match[0]):04x}", text))


def print_lines(lines: Sequence[str], *, under: str = "  ") -> None:
    """Print lines without markup; one that is too long is broken between words and goes on behind `under`.

    What a terminal would obey is shown instead. Words (paths, names) stay whole.
    """
    width = text_width()
    for line in lines:
        text = shown(line)
        if len(text) > width:
            indent = text[: len(text) - len(text.lstrip())]
            text = textwrap.fill(
                text,
                width,
                subsequent_indent=indent + under,
                break_long_words=False,
                break_on_hyphens=False,
                replace_whitespace=False,
            )
        sys.stdout.write(f"{text}\n")


def print_fields(fields: Mapping[str, object], indent: str = "") -> None:
    """Print nested records: plain values of an inner record in one row, all else on lines of its own."""
    row = []
    for name, value in fields.items():
        if isinstance(value, Mapping):
            print_lines([f"{indent}{name}:"])
            print_fields(value, f"{indent}  ")
        elif isinstance(value, (list, tuple)) or not indent:
            print_lines([f"{indent}{name}: {_plain(value)}"])
        else:
            row.append(f"{name}={_plain(value)}")
    if row:
        print_lines([indent + ", ".join(row)], under="")


def _plain(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value)) or "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "none" if value is None or value == "" else str(value)


def print_document(lines: Sequence[str]) -> None:
    """Print lines that another program reads as they are: YAML, Markdown."""
    sys.stdout.write("".join(f"{shown(line)}\n" for line in lines))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, keys: int = 1) -> None:
    """Print a table and an empty line; columns that do not fit follow below, the first `keys` of them repeated."""
    from s4d.cli.tables import render_table

    cells = [[shown(str(cell)) for cell in row] for row in rows]
    sys.stdout.write("".join(f"{line}\n" for line in render_table(columns, cells, width=text_width(), keys=keys)))


def text_width() -> int:
    """Columns that text may take: `COLUMNS`, else those of the terminal, else 80."""
    return max(NARROWEST, shutil.get_terminal_size((80, 24)).columns)


def shown(text: str) -> str:
    """`text`, which may stem from names in files, without control characters: `\\x1b` for an escape."""
    return UNPRINTED.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def relative(path: Path | str) -> str:
    """`path` as seen from the working directory when it lies below it."""
    path = Path(path)
    try:
        return os.fspath(path.resolve().relative_to(Path.cwd()))
    except (ValueError, RuntimeError):  # elsewhere, or a loop of symbolic links
        return os.fspath(path)
