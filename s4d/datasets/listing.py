"""What all readers share: tables of text, identities beside a tree, and one line for whatever is wrong."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from s4d.errors import DataError, UsageError

NAMED = 3


def refuse_fold(dataset: str, fold: int | None) -> None:
    """UsageError where a fold is asked of a dataset that has none."""
    if fold is not None:
        raise UsageError(f"--fold {fold}: dataset {dataset} has no folds")


def read_lines(path: Path) -> list[str]:
    """Lines of a text file, with or without a byte-order mark; DataError names a file that is no text."""
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable text file: {error}") from error


def read_table(
    path: Path, *, required: Sequence[str], optional: Sequence[str] = ()
) -> list[tuple[int, dict[str, str]]]:
    """Rows of a comma-separated file as (line number, column -> text); DataError names a wrong column or short row."""
    reader = csv.reader(read_lines(path))
    header = [name.strip() for name in next(reader, [])]
    expected = ",".join(required) + "".join(f"[,{name}]" for name in optional)
    for name in header:
        if name not in (*required, *optional):
            raise DataError(f"{path}: line 1: unknown column {name!r}, expected the header {expected}")
    for name in required:
        if name not in header:
            raise DataError(f"{path}: line 1: column {name!r} is missing, expected the header {expected}")
    rows = []
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            raise DataError(f"{path}: line {reader.line_num}: expected {len(header)} fields, got {len(cells)}")
        rows.append((reader.line_num, {name: cell.strip() for name, cell in zip(header, cells, strict=True)}))
    return rows


def read_identities(root: Path) -> dict[str, str]:
    """Identity of each sample id or path, from an optional `identities.csv` in or beside the dataset's folder."""
    for path in (root / "identities.csv", root.parent / "identities.csv"):
        if path.is_file():
            rows = [cells for cells in csv.reader(read_lines(path)) if cells]
            for number, cells in enumerate(rows, start=1):
                if len(cells) != 2:
                    raise DataError(f"{path}: line {number}: expected 2 fields (sample, identity), got {len(cells)}")
            return {cells[0].strip(): cells[1].strip() for cells in rows[1:]}
    return {}


def refuse_missing(path: Path, missing: Sequence[str], total: int) -> None:
    """DataError with the count and the first few of the media that a label file names but the tree lacks."""
    if missing:
        named = ", ".join(missing[:NAMED]) + (", ..." if len(missing) > NAMED else "")
        raise DataError(f"{path}: {len(missing)} of {total} media do not exist: {named}")


def folder_among(root: Path, candidates: Sequence[str], what: str) -> Path:
    """The first existing folder of `candidates` under `root`; DataError says what was looked for."""
    for name in candidates:
        if (root / name).is_dir():
            return root / name
    raise DataError(f"{root}: no {what} (looked for {', '.join(candidates)})")
