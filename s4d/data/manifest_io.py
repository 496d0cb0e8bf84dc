"""Manifest files: one Parquet or CSV table per prepared dataset, written whole and read strictly.

A CSV manifest can be written by hand: columns path, label, split and kind are enough; sample_id defaults to the path
and dataset to the file's name. Lines `# root:`, `# dataset:` and `# classes:` above the header are optional; without
them the root is the manifest's own folder and the classes are the labels in alphabetical order.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import importlib
import io
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from s4d.atomic_files import write_atomically
from s4d.data.manifest import ManifestRow
from s4d.data.media_check import find_damaged
from s4d.data.media_limits import refuse_outside
from s4d.errors import DataError, UsageError

COLUMNS = tuple(field.name for field in fields(ManifestRow))
REQUIRED = ("path", "label", "split", "kind")
TEXTS = ("sample_id", "path", "kind", "dataset", "split", "label", "identity")
# Letters of a wrong cell that an error quotes.
SHOWN = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """A prepared dataset: rows, the folder their paths start from, class names in head order, content fingerprint.

    `crop` names the recipe that faces were cut out with, empty where they were not cut out by this project; `left_out`
    has a line for each medium that `prepare_manifest` found damaged; it is not part of the file.
    """

    rows: tuple[ManifestRow, ...]
    root: Path
    dataset: str
    classes: tuple[str, ...]
    fingerprint: str
    crop: str = ""
    left_out: tuple[str, ...] = ()


def fingerprint(rows: Iterable[ManifestRow], classes: Sequence[str], crop: str = "") -> str:
    """SHA-256 of the content, whatever the file format and wherever the media lie."""
    digest = hashlib.sha256(repr(tuple(classes)).encode("utf-8"))
    digest.update(crop.encode("utf-8"))
    for row in rows:
        digest.update(repr(tuple(getattr(row, name) for name in COLUMNS)).encode("utf-8"))
    return digest.hexdigest()


def write_manifest(manifest: Manifest, path: Path | str) -> None:
    """Write Parquet or CSV by suffix, whole or not at all."""
    path = Path(path)
    table = {name: [getattr(row, name) for row in manifest.rows] for name in COLUMNS}
    for name, text_of in TEXT_OF.items():
        table[name] = [None if value is None else text_of(value) for value in table[name]]
    header = {"root": str(manifest.root), "dataset": manifest.dataset, "classes": json.dumps(manifest.classes)}
    if manifest.crop:
        header["crop"] = manifest.crop
    if _suffix(path) == ".parquet":
        import pyarrow
        import pyarrow.parquet

        columns = {name: pyarrow.array(values, _arrow_type(pyarrow, name)) for name, values in table.items()}
        arrow = pyarrow.table(columns).replace_schema_metadata({f"s4d.{key}": text for key, text in header.items()})
        sink = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(arrow, sink)
        write_atomically(path, sink.getvalue().to_pybytes())
        return
    text = io.StringIO()
    for key, value in header.items():
        text.write(f"# {key}: {value}\n")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(zip(*(["" if cell is None else cell for cell in table[name]] for name in COLUMNS), strict=True))
    write_atomically(path, text.getvalue())


def read_manifest(path: Path | str) -> Manifest:
    """Read and check a manifest; DataError names file, row and field."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such manifest (make one with `s4d data prepare`)")
    stat = path.stat()
    return _read(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=16)
def _read(path: Path, modified: int, size: int) -> Manifest:
    """Read a manifest once per version of its file: heads, splits and evaluations all ask for it."""
    header, records = _read_parquet(path) if _suffix(path) == ".parquet" else _read_csv(path)
    dataset = header.get("dataset") or path.stem
    rows = tuple(_row(path, number, record, dataset) for number, record in records)
    if not rows:
        raise DataError(f"{path}: holds no rows")
    _unique(path, rows)
    root = Path(header.get("root") or ".")
    classes = _classes(path, header.get("classes"), rows)
    return Manifest(
        rows=rows,
        root=root if root.is_absolute() else path.parent / root,
        dataset=dataset,
        classes=classes,
        fingerprint=fingerprint(rows, classes, header.get("crop", "")),
        crop=header.get("crop", ""),
    )


def prepare_manifest(
    dataset: str,
    root: Path | str,
    out: Path | str,
    fold: int | None = None,
    *,
    labels: str | None = None,
    media: str | None = None,
    skip_damaged: bool = False,
) -> Manifest:
    """Read a dataset's own files under `root` and write one manifest to `out`; an unknown name is a UsageError.

    `labels` names a public order of the classes (labels.ORDERS), `media` the folder of the media below `root` where a
    dataset exists in several forms. Empty or cut media are a DataError, or with `skip_damaged` left out and listed in
    the result.
    """
    from s4d.datasets import CLASS_NAMES, DATASETS
    from s4d.datasets.labels import order_of
    from s4d.datasets.listing import check_name
    from s4d.datasets.request import Request

    if dataset not in DATASETS:
        close = difflib.get_close_matches(dataset, DATASETS, n=1)
        hint = f", did you mean {close[0]}?" if close else ""
        raise UsageError(f"dataset {dataset!r} is unknown{hint} (known: {', '.join(sorted(DATASETS))})")
    _suffix(Path(out))
    root = Path(root)
    if not root.exists():
        raise DataError(f"{root}: no such folder")
    base = (root if root.is_dir() else root.parent).resolve()
    check_name(str(base), "the dataset's folder")
    order = order_of(dataset, labels, "--labels") if labels is not None else CLASS_NAMES[dataset]
    module, _, function = DATASETS[dataset].rpartition(".")
    request = Request(fold=fold, order=order, media=media)
    rows = tuple(getattr(importlib.import_module(module), function)(root, request))
    damaged = find_damaged(rows, root if root.is_dir() else root.parent)
    if damaged and not skip_damaged:
        first = next(iter(damaged.values()))
        raise DataError(f"{first} ({len(damaged)} damaged in all; --on-error skip leaves such media out)")
    rows = tuple(row for row in rows if row.path not in damaged)
    if not rows:
        raise DataError(f"{root}: no samples found for dataset {dataset}")
    classes = order or tuple(sorted({row.label for row in rows if row.label is not None}))
    manifest = Manifest(
        rows=rows,
        root=base,
        dataset=dataset,
        classes=classes,
        fingerprint=fingerprint(rows, classes),
        left_out=tuple(damaged.values()),
    )
    _unique(root, rows)
    write_manifest(manifest, out)
    return manifest


def _suffix(path: Path) -> str:
    if path.suffix not in (".parquet", ".csv"):
        raise UsageError(f"{path}: a manifest ends in .parquet or .csv")
    return path.suffix


def _arrow_type(pyarrow: Any, name: str) -> Any:
    if name in ("fold", "frame_count"):
        return pyarrow.int64()
    return pyarrow.float64() if name == "fps" else pyarrow.string()


def _read_parquet(path: Path) -> tuple[dict[str, str], list[tuple[int, dict[str, Any]]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        # Without Arrow's threads: a short command that ended while they still ran was aborted now and then.
        table = pyarrow.parquet.ParquetFile(path).read(use_threads=False)
        metadata = table.schema.metadata or {}
        header = {key.decode()[4:]: value.decode() for key, value in metadata.items() if key.startswith(b"s4d.")}
        columns, records = table.column_names, table.to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError, OverflowError, KeyError) as error:
        raise DataError(f"{path}: not a readable Parquet file: {(str(error).splitlines() or [''])[0]}") from error
    _check_columns(path, columns)
    return header, list(enumerate(records, start=1))


def _read_csv(path: Path) -> tuple[dict[str, str], list[tuple[int, dict[str, Any]]]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable CSV file: {error}") from error
    header: dict[str, str] = {}
    skipped = 0
    while skipped < len(lines) and (not lines[skipped].strip() or lines[skipped].startswith("#")):
        key, separator, value = lines[skipped].lstrip("# ").partition(":")
        if separator:
            header[key.strip()] = value.strip()
        skipped += 1
    reader = _cells(path, csv.reader(lines[skipped:]))
    columns = [name.strip() for _, cells in itertools.islice(reader, 1) for name in cells]
    _check_columns(path, columns)
    records = []
    for line, cells in reader:
        if not cells:
            continue
        number = skipped + line
        if len(cells) != len(columns):
            raise DataError(f"{path}: line {number}: expected {len(columns)} fields, got {len(cells)}")
        pairs = zip(columns, cells, strict=True)
        records.append((number, {name: cell.strip() or None for name, cell in pairs}))
    return header, records


def _cells(path: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Line and cells of each row of a CSV reader."""
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(f"{path}: not a readable CSV file: {error}") from error


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    for name in columns:
        if name not in COLUMNS:
            close = difflib.get_close_matches(name, COLUMNS, n=1)
            hint = f", did you mean {close[0]!r}?" if close else f" (known: {', '.join(COLUMNS)})"
            raise DataError(f"{path}: unknown column {name!r}{hint}")
    for name in REQUIRED:
        if name not in columns:
            raise DataError(f"{path}: column {name!r} is missing (needed: {', '.join(REQUIRED)})")
    if len(set(columns)) != len(columns):
        raise DataError(f"{path}: a column is named twice: {', '.join(columns)}")


def _row(path: Path, number: int, record: dict[str, Any], dataset: str) -> ManifestRow:
    """One checked row; `number` is the line of a CSV file or the row of a Parquet file."""
    values = dict(record)
    values["sample_id"] = values.get("sample_id") or values.get("path") or ""
    values["dataset"] = values.get("dataset") or dataset
    for name in ("path", "split", "kind"):
        if not values[name]:
            raise DataError(f"{path}: row {number}: field {name!r} is empty")
    for name in TEXTS:
        if not isinstance(values.get(name), str | None):
            raise DataError(f"{path}: row {number}: field {name!r}: expected text, got {str(values[name])[:SHOWN]!r}")
    refuse_outside(values["path"], f"{path}: row {number}")
    for name, convert in CONVERT.items():
        cell = values.get(name)
        if cell is not None:
            try:
                values[name] = convert(cell)
            except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
                raise DataError(f"{path}: row {number}: field {name!r}: cannot read {str(cell)[:SHOWN]!r}") from error
    try:
        return ManifestRow(**values)
    except ValueError as error:
        raise DataError(f"{path}: row {number}: {error}") from error


def _box(cell: str) -> tuple[int, int, int, int]:
    left, top, right, bottom = (int(part) for part in cell.split())
    return left, top, right, bottom


def _points(cell: str) -> tuple[float, ...]:
    return tuple(_finite(part) for part in cell.split())


def _whole(cell: str | float) -> int:
    if isinstance(cell, float) and not cell.is_integer():
        raise ValueError(cell)
    return int(cell)


def _finite(cell: str | float) -> float:
    value = float(cell)
    if not math.isfinite(value):
        raise ValueError(cell)
    return value


def _distribution(cell: str) -> tuple[tuple[str, float], ...]:
    shares = json.loads(cell)
    if not isinstance(shares, dict):
        raise ValueError(cell)
    return tuple((str(name), float(share)) for name, share in shares.items())


# Fields that a cell of text holds.
TEXT_OF: dict[str, Callable[[Any], str]] = {
    "face_box": lambda box: " ".join(map(str, box)),
    "face_points": lambda points: " ".join(f"{value:g}" for value in points),
    "distribution": lambda shares: json.dumps(dict(shares)),
}
CONVERT: dict[str, Callable[[Any], object]] = {
    "fold": _whole,
    "frame_count": _whole,
    "fps": _finite,
    "face_box": _box,
    "face_points": _points,
    "distribution": _distribution,
}


def _unique(path: Path, rows: Sequence[ManifestRow]) -> None:
    seen: set[tuple[str, int | None]] = set()
    for number, row in enumerate(rows, start=1):
        if (row.sample_id, row.fold) in seen:
            where = "" if row.fold is None else f" in fold {row.fold}"
            raise DataError(f"{path}: row {number}: sample_id {row.sample_id!r} occurs twice{where}")
        seen.add((row.sample_id, row.fold))


def _classes(path: Path, text: str | None, rows: Sequence[ManifestRow]) -> tuple[str, ...]:
    labels = {row.label for row in rows if row.label is not None}
    if not text:
        return tuple(sorted(labels))
    try:
        classes = tuple(json.loads(text)) if text.startswith("[") else tuple(part.strip() for part in text.split(","))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path}: field 'classes' is not a list of names: {text[:SHOWN]!r}") from error
    if not all(isinstance(name, str) for name in classes):
        raise DataError(f"{path}: field 'classes' is not a list of names: {text[:SHOWN]!r}")
    for number, row in enumerate(rows, start=1):
        if row.label is not None and row.label not in classes:
            raise DataError(f"{path}: row {number}: label {row.label!r} is not one of the classes {', '.join(classes)}")
    return classes
