"""Files of features, each whole or not there: `features-00000.npz` or `.parquet`, and the index that lists them.

Letters: n samples of a file, T tokens, D width.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s4d.analysis.artefacts import read_json
from s4d.analysis.predictions import BROKEN
from s4d.atomic_files import write_atomically
from s4d.errors import DataError, UsageError
from s4d.json_text import to_json

INDEX = "index.json"
FORMATS = ("npz", "parquet")


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """Samples of one file: `labels` are class names, empty where a manifest has none; `features` (n, D) or (n, T, D).

    `problems` has a line for each sample that could not be read and is left out.
    """

    sample_ids: tuple[str, ...]
    labels: tuple[str, ...]
    problems: tuple[str, ...]
    features: NDArray[Any]


def shard_name(number: int, file_format: str) -> str:
    """Name of file `number`."""
    return f"features-{number:05d}.{file_format}"


def write_shard(path: Path, shard: Shard) -> None:
    """Write one file; the bytes follow from the content alone."""
    content = _npz(shard) if path.suffix == ".npz" else _parquet(shard)
    write_atomically(path, content)


def _npz(shard: Shard) -> bytes:
    content = io.BytesIO()
    texts = {name: np.array(getattr(shard, name), dtype=np.str_) for name in ("sample_ids", "labels", "problems")}
    np.savez(content, features=shard.features, **texts)  # type: ignore[arg-type]
    return content.getvalue()


def _parquet(shard: Shard) -> bytes:
    """One row per sample; features flattened, with their shape in the file's metadata."""
    import pyarrow
    import pyarrow.parquet

    shape = shard.features.shape[1:]
    flat = pyarrow.array(shard.features.reshape(-1))
    columns = {
        "sample_id": pyarrow.array(shard.sample_ids, pyarrow.string()),
        "label": pyarrow.array(shard.labels, pyarrow.string()),
        "features": pyarrow.FixedSizeListArray.from_arrays(flat, int(np.prod(shape))),
    }
    metadata = {"s4d.shape": to_json(list(shape)), "s4d.problems": to_json(list(shard.problems))}
    sink = pyarrow.BufferOutputStream()
    table = pyarrow.table(columns).replace_schema_metadata(metadata)
    pyarrow.parquet.write_table(table, sink, write_page_checksum=True)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def read_problems(path: Path, expected: Sequence[str]) -> tuple[str, ...] | None:
    """Lines about samples left out of a written file; None if it is not there, damaged or not of these samples."""
    try:
        ids, problems = _read_npz(path) if path.suffix == ".npz" else _read_parquet(path)
    except (*BROKEN, KeyError):
        return None
    kept = set(ids)
    fits = len(ids) + len(problems) == len(expected) and [name for name in expected if name in kept] == ids
    return tuple(problems) if fits else None


def _read_npz(path: Path) -> tuple[list[str], list[str]]:
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return arrays["sample_ids"].tolist(), arrays["problems"].tolist()


def _read_parquet(path: Path) -> tuple[list[str], list[str]]:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path, page_checksum_verification=True)
    return table["sample_id"].to_pylist(), json.loads(table.schema.metadata[b"s4d.problems"])


def claim_index(out: Path, request: dict[str, Any]) -> None:
    """Say in `out` what its files will hold; UsageError if it says something else already."""
    path = out / INDEX
    known = read_json(path)
    if known:
        other = next((key for key in request if known.get(key) != request[key]), None)
        if other is not None:
            raise UsageError(f"{path}: {other}: the folder holds other features; choose another --out")
        return
    if out.is_dir() and any(not file.name.startswith(".") for file in out.iterdir()):
        raise UsageError(f"--out {out}: is not empty and has no {INDEX} of features")
    write_atomically(path, to_json({**request, "complete": False}))


def finish_index(out: Path, request: dict[str, Any], files: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Write the index of all files with their checksums; the work is done where it says `complete`."""
    entries = [{**entry, "sha256": sha256_of(out / entry["file"])} for entry in files]
    document = {**request, "complete": True, "files": entries}
    write_atomically(out / INDEX, to_json(document))
    for file in out.glob(".*.tmp"):
        # Of a call that was killed while it wrote.
        file.unlink(missing_ok=True)
    return document


def sha256_of(path: Path) -> str:
    """Checksum of a file."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
