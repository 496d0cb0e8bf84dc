"""Where each medium's frames lie: shards of about one size, records at whole pages, frames at one pitch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from s4d.data.cache.recipe import CacheRecipe
from s4d.data.manifest import Kind, ManifestRow

PAGE = 4096
PITCH = 64
HEADER_BYTES = 256
ENTRY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Medium:
    """A file or folder of the manifest, as the manifest has it; rows of several folds share it."""

    path: str
    kind: Kind


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """What opening a medium showed: its frames and their size, or the problem; `stamp` tells a changed file."""

    stamp: str
    frame_count: int = 0
    size: tuple[int, int] = (0, 0)
    problem: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """The place of one medium: `kept` frames, every `step`-th of `frame_count`, `pitch` bytes apart.

    `size` is the medium's own width and height, `stored` that of the kept frames. A medium with a problem has no bytes.
    """

    shard: int
    place: int
    offset: int
    frame_count: int
    size: tuple[int, int]
    stored: tuple[int, int]
    step: int
    pitch: int

    @property
    def kept(self) -> int:
        """Stored frames."""
        return -(-self.frame_count // self.step)

    @property
    def length(self) -> int:
        """Bytes of the record."""
        return self.kept * self.pitch


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Records in manifest order, and of each shard its records and its size in bytes."""

    records: tuple[Record, ...]
    shards: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]


def media_of(rows: Sequence[ManifestRow]) -> tuple[Medium, ...]:
    """The distinct media of a manifest in its order."""
    return tuple(dict.fromkeys(Medium(row.path, row.kind) for row in rows))


def aligned_length(record: Record) -> int:
    """Bytes of a record up to the end of its last page."""
    return _aligned(record.length, PAGE)


def data_start(records: int) -> int:
    """First byte behind the header and the table of a shard."""
    return _aligned(HEADER_BYTES + ENTRY_BYTES * records, PAGE)


def place_records(probes: Sequence[Probe], recipe: CacheRecipe, shard_bytes: int) -> Layout:
    """Give every medium its shard and offset; a function of the probes, the recipe and the wanted size of a shard."""
    groups: list[list[int]] = [[]]
    lengths = []
    room = 0
    for number, probe in enumerate(probes):
        length = _aligned(_length(probe, recipe), PAGE)
        lengths.append(length)
        if groups[-1] and room + length > shard_bytes:
            groups.append([])
            room = 0
        groups[-1].append(number)
        room += length
    records, sizes = [], []
    for shard, group in enumerate(groups):
        offset = data_start(len(group))
        for place, number in enumerate(group):
            records.append(_record(probes[number], recipe, shard, place, offset))
            offset += lengths[number]
        sizes.append(offset)
    return Layout(records=tuple(records), shards=tuple(map(tuple, groups)), sizes=tuple(sizes))


def _pitch(probe: Probe, recipe: CacheRecipe) -> int:
    width, height = recipe.stored_size(*probe.size)
    return _aligned(width * height * 3, PITCH)


def _length(probe: Probe, recipe: CacheRecipe) -> int:
    if probe.problem:
        return 0
    return -(-probe.frame_count // recipe.step(probe.frame_count)) * _pitch(probe, recipe)


def _record(probe: Probe, recipe: CacheRecipe, shard: int, place: int, offset: int) -> Record:
    return Record(
        shard=shard,
        place=place,
        offset=offset,
        frame_count=probe.frame_count,
        size=probe.size,
        stored=recipe.stored_size(*probe.size),
        step=recipe.step(probe.frame_count),
        pitch=_pitch(probe, recipe),
    )


def _aligned(size: int, unit: int) -> int:
    return -(-size // unit) * unit
