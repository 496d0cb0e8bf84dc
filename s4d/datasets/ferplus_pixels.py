"""The pixels of FER2013 as image files: 48 x 48 grey values in a column of text become PNG files, without loss."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from s4d.datasets.ferplus import NAME, PARTS, PIXELS, USAGE, VOTES, image_name, read_votes
from s4d.datasets.listing import place
from s4d.errors import DataError

SIDE = 48
FOLDER = "images"


def unpack(root: Path) -> int:
    """Write `images/FER2013{Train,Valid,Test}/fer*.png` below the root, all or none, and return how many.

    The two tables have their rows in one order; rows without an image name are skipped, as FERPlus drops them.
    DataError names table, line and field.
    """
    target = root / FOLDER
    if target.exists():
        raise DataError(f"{target}: is there already; move it away to unpack anew")
    table = next((root / name for name in PIXELS if (root / name).is_file()), None)
    if table is None:
        raise DataError(f"{root}: no table of pixels (looked for {', '.join(PIXELS)})")
    aside = root / f".{FOLDER}.{os.getpid()}.tmp"
    try:
        count = _write_all(table, root / VOTES, aside)
        # One flush of everything: a flush for each of 36,000 files takes minutes.
        os.sync()
        aside.replace(target)
    except OSError as error:
        raise DataError(f"{target}: cannot write: {error.strerror or error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return count


def _write_all(table: Path, votes: Path, aside: Path) -> int:
    for _, folder in PARTS.values():
        (aside / folder).mkdir(parents=True)
    named = read_votes(votes)
    written: set[str] = set()
    rows = 0
    for line, usage, text in _pixel_rows(table):
        if rows == len(named):
            raise DataError(f"{place(table, line)}: {votes.name} has {len(named)} rows only, expected as many as here")
        number, row = named[rows]
        rows += 1
        if usage != row[USAGE]:
            raise DataError(
                f"{place(table, line, USAGE)}: {usage!r}, but line {number} of {votes.name}: {row[USAGE]!r}"
            )
        if row[NAME]:
            name = f"{PARTS[usage][1]}/{image_name(votes, number, row)}"
            if name in written:
                raise DataError(f"{place(votes, number, NAME)}: {row[NAME]!r} is listed twice")
            written.add(name)
            Image.fromarray(_grey(text, place(table, line, "pixels"))).save(aside / name, compress_level=1)
    if rows < len(named):
        raise DataError(f"{table}: has {rows} rows, but {votes.name} has {len(named)}")
    return len(written)


def _pixel_rows(table: Path) -> Iterator[tuple[int, str, str]]:
    """Line, part and pixels of each row, one at a time: the table is 300 MB of text."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream)
            header = [name.strip() for name in next(reader, [])]
            if sorted(header) != sorted(("emotion", "pixels", USAGE)):
                raise DataError(
                    f"{table}: line 1: expected the header emotion,pixels,{USAGE}, got {','.join(header)!r}"
                )
            pixels, usage = header.index("pixels"), header.index(USAGE)
            for cells in reader:
                if len(cells) != len(header):
                    raise DataError(f"{place(table, reader.line_num)}: expected 3 fields, got {len(cells)}")
                yield reader.line_num, cells[usage].strip(), cells[pixels]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: not a readable csv file: {error}") from error


def _grey(text: str, where: str) -> NDArray[np.uint8]:
    values = text.split()
    if len(values) != SIDE * SIDE:
        raise DataError(f"{where}: expected {SIDE * SIDE} grey values, got {len(values)}")
    try:
        grey = np.array(values, dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise DataError(f"{where}: expected grey values: {error}") from error
    if grey.min() < 0 or grey.max() > 255:
        raise DataError(f"{where}: expected grey values of 0 to 255, got {grey.min()} to {grey.max()}")
    return grey.astype(np.uint8).reshape(SIDE, SIDE)
