"""The description of a finished cache: cache.json, written last, and index.parquet with a row for each medium."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s4d.atomic_files import write_atomically
from s4d.data.cache.layout import Layout, Medium
from s4d.data.cache.recipe import VERSION, CacheRecipe, cache_id
from s4d.errors import DataError, UsageError

DONE, BEGUN, TABLE = "cache.json", "unfinished.json", "index.parquet"
NUMBERS = (
    "shard",
    "place",
    "offset",
    "frame_count",
    "width",
    "height",
    "stored_width",
    "stored_height",
    "step",
    "pitch",
    "crc32",
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Index:
    """A cache's media in manifest order; `numbers` has a row of `NUMBERS` a medium, `problems` the media left out."""

    id: str
    fingerprint: str
    recipe: CacheRecipe
    shards: tuple[int, ...]
    media: dict[Medium, int]
    numbers: NDArray[np.int64]
    problems: dict[int, str]

    def column(self, name: str) -> NDArray[np.int64]:
        """One of `NUMBERS` for each medium."""
        return self.numbers[:, NUMBERS.index(name)]


def describe(fingerprint: str, recipe: CacheRecipe) -> dict[str, Any]:
    """What tells one cache from another, as JSON."""
    return {
        "format": "s4d-cache",
        "version": VERSION,
        "id": cache_id(fingerprint, recipe),
        "manifest": fingerprint,
        "recipe": asdict(recipe),
    }


def write_index(
    folder: Path,
    description: dict[str, Any],
    media: Sequence[Medium],
    layout: Layout,
    crcs: Sequence[int],
    problems: dict[int, str],
) -> None:
    """Write the table, then the file that makes the cache a finished one."""
    import pyarrow
    import pyarrow.parquet

    rows = [
        (r.shard, r.place, r.offset, r.frame_count, *r.size, *r.stored, r.step, r.pitch, crc)
        for r, crc in zip(layout.records, crcs, strict=True)
    ]
    columns = zip(NUMBERS, zip(*rows, strict=True), strict=True)
    table = pyarrow.table(
        {
            "path": [medium.path for medium in media],
            "kind": [medium.kind for medium in media],
            **{name: pyarrow.array(column, pyarrow.int64()) for name, column in columns},
            "problem": pyarrow.array([problems.get(number) for number in range(len(media))], pyarrow.string()),
        }
    )
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink)
    content = sink.getvalue().to_pybytes()
    write_atomically(folder / TABLE, content)
    document = {**description, "shards": layout.sizes, "index_sha256": hashlib.sha256(content).hexdigest()}
    write_atomically(folder / DONE, json.dumps(document, indent=1) + "\n")


def read_index(folder: Path) -> Index:
    """The index of a finished cache, checked against its own checksums; DataError names file and field."""
    path = folder / DONE
    if not path.is_file():
        if (folder / BEGUN).is_file():
            raise DataError(f"{folder}: unfinished cache: call `s4d data cache` again to finish it")
        raise DataError(f"{folder}: no cache in this folder (make one with `s4d data cache`)")
    table = folder / TABLE
    if not table.is_file():
        raise DataError(f"{table}: no such file; the index of this cache is missing")
    versions = tuple((stat.st_mtime_ns, stat.st_size) for stat in (path.stat(), table.stat()))
    return _read(folder, versions)


def read_description(path: Path) -> dict[str, Any]:
    """cache.json or unfinished.json with its fields checked."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable JSON file: {error}") from error
    if not isinstance(document, dict) or document.get("format") != "s4d-cache":
        raise DataError(f"{path}: format: not the description of a cache")
    if document.get("version") != VERSION:
        raise DataError(f"{path}: version: expected {VERSION}, got {document.get('version')}")
    try:
        recipe = CacheRecipe(**document["recipe"])
        if document["id"] != cache_id(document["manifest"], recipe):
            raise DataError(f"{path}: id: does not belong to this manifest and recipe")
    except (KeyError, TypeError, UsageError) as error:
        raise DataError(f"{path}: recipe: {error}") from error
    return document


@lru_cache(maxsize=8)
def _read(folder: Path, versions: tuple[tuple[int, int], ...]) -> Index:
    """Read an index once per version of its files: every split and evaluation asks for it."""
    import pyarrow
    import pyarrow.parquet

    document = read_description(folder / DONE)
    path = folder / TABLE
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot read the index: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != document.get("index_sha256"):
        raise DataError(f"{path}: checksum: the index is damaged")
    # Without Arrow's threads: a short command that ended while they still ran was aborted now and then.
    table = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(content)).read(use_threads=False)
    sizes = document.get("shards")
    if not isinstance(sizes, list) or len(sizes) != int(table["shard"].to_numpy().max()) + 1:
        raise DataError(f"{folder / DONE}: shards: expected the size of each shard")
    media = zip(table["path"].to_pylist(), table["kind"].to_pylist(), strict=True)
    problems = table["problem"].to_pylist()
    return Index(
        id=document["id"],
        fingerprint=document["manifest"],
        recipe=CacheRecipe(**document["recipe"]),
        shards=tuple(sizes),
        media={Medium(path, kind): number for number, (path, kind) in enumerate(media)},
        numbers=np.stack([table[name].to_numpy() for name in NUMBERS], axis=1),
        problems={number: text for number, text in enumerate(problems) if text is not None},
    )
