"""Label files: text decoded with care, tables, paths that stay inside the tree, and one line for whatever is wrong."""

from __future__ import annotations

import csv
import logging
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from s4d.errors import DataError

logger = logging.getLogger(__name__)

NAMED = 3
IDENTITIES = "identities.csv"
# What the column of the samples may be called in it.
SAMPLE_NAMES = ("sample", "sample_id", "path")
UTF8_MARK = b"\xef\xbb\xbf"
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
WINDOWS_DRIVE = re.compile(r"[A-Za-z]:[/\\]")
# Categories of Unicode: control characters, lone surrogates, separators of lines and paragraphs.
UNSPEAKABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of a label file: the line it stands in, the medium it names, its class name."""

    line: int
    name: str
    label: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelFile:
    """The rows of one label file for one split and fold; `field` is what the file calls the medium."""

    path: Path
    split: str
    entries: tuple[Entry, ...]
    fold: int | None = None
    field: str = "path"


def place(path: Path, line: int, field: str | None = None) -> str:
    """`file: line N: field 'x'`, the beginning of every message about a row."""
    return f"{path}: line {line}" + (f": field {field!r}" if field else "")


def read_lines(path: Path, *, stray_bytes: bool = False) -> list[str]:
    """Lines of a UTF-8 text file without their ends; DataError names file and line of what is not text.

    A byte-order mark and the line ends of other systems are taken off, with one line in the log. `stray_bytes` is for
    files whose free text is known to be in a mixture of encodings: bytes that are not UTF-8 come as lone surrogates
    and are counted in the log; whoever reads a field checks it with `check_name`.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: not a readable text file: {error.strerror or error}") from error
    if data.startswith(UTF16_MARKS):
        raise DataError(f"{path}: not a readable text file: UTF-16, expected UTF-8")
    if b"\0" in data:
        raise DataError(f"{place(path, _line_of(data, data.index(0)))}: holds a zero byte, which no text does")
    oddities = []
    if data.startswith(UTF8_MARK):
        data = data[len(UTF8_MARK) :]
        oddities.append("a byte-order mark")
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        oddities.append("line ends with a carriage return")
    if oddities:
        logger.warning("%s: has %s; read without", path, " and ".join(oddities))
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        if not stray_bytes:
            raise DataError(
                f"{place(path, _line_of(data, error.start))}: byte 0x{data[error.start]:02x} is not UTF-8 "
                "(Latin-1 or another encoding; save the file as UTF-8)"
            ) from error
        text = data.decode("utf-8", errors="surrogateescape")
        stray = sum(not is_clean(line) for line in text.split("\n"))
        logger.warning("%s: %d lines hold bytes that are not UTF-8; only free text may", path, stray)
    lines = text.split("\n")
    return lines[:-1] if lines and not lines[-1] else lines


def _line_of(data: bytes, position: int) -> int:
    return data.count(b"\n", 0, position) + 1


def is_clean(text: str) -> bool:
    """Whether a text can be written as UTF-8: file names and stray bytes may come with lone surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def is_number(text: str) -> bool:
    """Whether a text is a whole number of at most nine digits; Python refuses to read one of thousands."""
    return text.isascii() and text.isdecimal() and len(text) < 10


def check_name(text: str, where: str) -> None:
    """DataError at `where` for a name that no manifest could hold: control characters, bytes that are not UTF-8."""
    if not text.isprintable() and any(unicodedata.category(char) in UNSPEAKABLE for char in text):
        shown = os.fsencode(text) if not is_clean(text) else text
        raise DataError(f"{where}: {shown!r} holds control characters or bytes that are not UTF-8")


def read_table(
    path: Path, *, required: Sequence[str], optional: Sequence[str] = (), header: Sequence[str] = ()
) -> list[tuple[int, dict[str, str]]]:
    """Rows of a comma-separated file as (line number, column -> text); DataError names a wrong column or short row.

    `header` names the columns of a file that has no such line itself.
    """
    reader = csv.reader(read_lines(path), strict=True)
    try:
        header = list(header) or [name.strip() for name in next(reader, [])]
        _check_header(path, header, required, optional)
        rows = []
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise DataError(f"{place(path, reader.line_num)}: expected {len(header)} fields, got {len(cells)}")
            rows.append((reader.line_num, {name: cell.strip() for name, cell in zip(header, cells, strict=True)}))
    except csv.Error as error:
        raise DataError(f"{place(path, reader.line_num)}: not a row of a csv file: {error}") from error
    return rows


def _check_header(path: Path, header: Sequence[str], required: Sequence[str], optional: Sequence[str]) -> None:
    expected = ",".join(required) + "".join(f"[,{name}]" for name in optional)
    for name in header:
        if name not in (*required, *optional):
            raise DataError(f"{path}: line 1: unknown column {name!r}, expected the header {expected}")
        if header.count(name) > 1:
            raise DataError(f"{path}: line 1: column {name!r} occurs twice, expected the header {expected}")
    for name in required:
        if name not in header:
            raise DataError(f"{path}: line 1: column {name!r} is missing, expected the header {expected}")


def read_columns(path: Path, columns: Sequence[str], separator: str = " ") -> list[tuple[int, tuple[str, ...]]]:
    """Rows of a list without header as (line number, fields); DataError for a row with more or fewer fields."""
    rows = []
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        cells = tuple(cell for cell in line.strip().split(separator) if cell)
        if len(cells) != len(columns):
            wanted = " ".join(columns)
            raise DataError(f"{place(path, number)}: expected {len(columns)} fields ({wanted}), got {len(cells)}")
        rows.append((number, cells))
    return rows


def inner_path(text: str, where: str) -> str:
    """A path of a list in its plain form; DataError at `where` unless it is relative and stays below its folder."""
    if not text:
        raise DataError(f"{where}: the path is empty")
    if text.startswith("/") or WINDOWS_DRIVE.match(text) or text.startswith("\\\\"):
        raise DataError(f"{where}: {text!r} is an absolute path, expected one below the dataset's folder")
    if "\\" in text:
        raise DataError(f"{where}: {text!r} has backslashes, expected / between folders")
    check_name(text, where)
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise DataError(f"{where}: {text!r} leads out of its folder (..)")
    if not parts:
        raise DataError(f"{where}: {text!r} names no file")
    return "/".join(parts)


def class_name(text: str, classes: Sequence[str], where: str, spelling: Callable[[str], str]) -> str:
    """The class a label names, by `spelling` (labels.canonical); DataError at `where` for an unknown one."""
    name = spelling(text)
    if name not in classes:
        raise DataError(f"{where}: unknown label {text!r}, expected one of {', '.join(classes)}")
    return name


def class_number(text: str, classes: Sequence[str], where: str, first: int = 0) -> str:
    """The class a number stands for, counted from `first`; DataError at `where` for anything else."""
    if not is_number(text) or not first <= int(text) < first + len(classes):
        last = first + len(classes) - 1
        raise DataError(f"{where}: unknown label {text!r}, expected {first} to {last}")
    return classes[int(text) - first]


def refuse_empty(path: Path, rows: Sequence[object]) -> None:
    """DataError for a label file without rows."""
    if not rows:
        raise DataError(f"{path}: holds no rows")


def refuse_repeats(file: LabelFile, key: Callable[[str], str] = str) -> None:
    """DataError for a medium that a label file names twice; `key` makes different spellings of one name equal."""
    seen: set[str] = set()
    for entry in file.entries:
        if key(entry.name) in seen:
            raise DataError(f"{place(file.path, entry.line, file.field)}: {entry.name!r} is listed twice")
        seen.add(key(entry.name))


def refuse_overlap(train: LabelFile, test: LabelFile, key: Callable[[str], str] = str) -> None:
    """DataError for a medium of the test part that is in the train part too."""
    names = {key(entry.name) for entry in train.entries}
    for entry in test.entries:
        if key(entry.name) in names:
            raise DataError(f"{place(test.path, entry.line, test.field)}: {entry.name!r} is in the train part too")


def refuse_missing(path: Path, missing: Sequence[tuple[int, str]], total: int, field: str = "path") -> None:
    """DataError with the first line, the count and some names of the media that a list has but the tree lacks."""
    if missing:
        names = ", ".join(name for _, name in missing[:NAMED]) + (", ..." if len(missing) > NAMED else "")
        raise DataError(f"{place(path, missing[0][0], field)}: {len(missing)} of {total} media do not exist: {names}")


def find_identities(root: Path) -> Path | None:
    """The `identities.csv` in or beside a dataset's folder, if there is one."""
    return next((path for path in (root / IDENTITIES, root.parent / IDENTITIES) if path.is_file()), None)


def read_identities(root: Path) -> dict[str, str]:
    """Identity of each sample id or path, from an optional `identities.csv` in or beside the dataset's folder.

    DataError for another header than that of a sample (under one of three names) and its identity, and for a sample of
    two identities; an empty identity says nothing.
    """
    path = find_identities(root)
    if path is None:
        return {}
    people: dict[str, str] = {}
    for line, row in read_table(path, required=("identity",), optional=SAMPLE_NAMES):
        person = row.pop("identity")
        if len(row) != 1:
            raise DataError(f"{path}: line 1: expected one of the columns {', '.join(SAMPLE_NAMES)}, got {len(row)}")
        ((field, sample),) = row.items()
        if person and people.setdefault(sample, person) != person:
            raise DataError(
                f"{place(path, line, field)}: {sample!r} has two identities, {people[sample]!r} and {person!r}"
            )
    return people


def identity_of(identities: dict[str, str], sample_id: str, path: str) -> str | None:
    """The person of a sample, found by its id or by its path from the root; None for one that is not listed."""
    return identities.get(sample_id, identities.get(path))


def folder_among(root: Path, candidates: Iterable[str], what: str) -> Path:
    """The first existing folder of `candidates` under `root`; DataError says what was looked for."""
    tried = list(candidates)
    for name in tried:
        if (root / name).is_dir():
            return root / name
    raise DataError(f"{root}: no {what} (looked for {', '.join(tried)})")
