"""The shards of a cache while they are made: what earlier calls finished, what is missing, when one is whole."""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from s4d.atomic_files import flush
from s4d.data.cache.fill import Filled
from s4d.data.cache.journal import Journal
from s4d.data.cache.layout import Layout, Medium, Probe, aligned_length
from s4d.data.cache.shard import Table, encode_header, make_table, read_header, shard_name
from s4d.errors import DataError

GIB = 1 << 30


@dataclass(kw_only=True)
class Shards:
    """`results` has what is done by number of the medium, `left` the records that each shard still waits for."""

    folder: Path
    id: str
    media: tuple[Medium, ...]
    probes: list[Probe]
    layout: Layout
    journal: Journal
    results: dict[int, Filled] = field(default_factory=dict)
    left: list[int] = field(default_factory=list)
    sealed: set[int] = field(default_factory=set)

    def final(self, shard: int) -> Path:
        """A whole shard."""
        return self.folder / shard_name(self.id, shard)

    def part(self, shard: int) -> Path:
        """A shard that is being made."""
        return self.folder / f"{shard_name(self.id, shard)}.part"

    @property
    def parts(self) -> tuple[Path, ...]:
        """Where the records of each shard are written."""
        return tuple(self.part(shard) for shard in range(len(self.layout.shards)))

    def resume(self, *, keep_problems: bool) -> int:
        """Take over what earlier calls finished, and return the number of media that need no work."""
        known = {(line["path"], line["kind"]): line for line in self.journal.lines}
        for number, (medium, probe) in enumerate(zip(self.media, self.probes, strict=True)):
            line = known.get((medium.path, medium.kind))
            if probe.problem:
                self.results[number] = Filled(0, probe.problem)
            elif line is not None and self._holds(line, number) and (keep_problems or not line["problem"]):
                self.results[number] = Filled(line["crc"], line["problem"])
        for shard, numbers in enumerate(self.layout.shards):
            self._resume_shard(shard, numbers)
        self.left = [sum(number not in self.results for number in numbers) for numbers in self.layout.shards]
        ours = {path.name for shard in range(len(self.left)) for path in (self.final(shard), self.part(shard))}
        for path in self.folder.glob(f"{shard_name(self.id, 0)[:16]}-*.shard*"):
            if path.name not in ours:  # more shards than needed, of media that have changed since
                path.unlink()
        return len(self.results)

    def _line(self, number: int) -> dict[str, Any]:
        """What a journal line says of a record: the file as it was, and its place."""
        record = self.layout.records[number]
        return {**asdict(self.media[number]), "stamp": self.probes[number].stamp, **asdict(record)}

    def _holds(self, line: dict[str, Any], number: int) -> bool:
        wanted = self._line(number)
        return json.dumps({name: line.get(name) for name in wanted}) == json.dumps(wanted)

    def _resume_shard(self, shard: int, numbers: tuple[int, ...]) -> None:
        final, part = self.final(shard), self.part(shard)
        if final.is_file():
            with contextlib.suppress(DataError):
                if np.array_equal(read_header(final, self.id, shard), self._table(shard)):
                    self.sealed.add(shard)
                    return
            final.replace(part)
        for number in numbers:
            # A journal line may be on the disk and the pixels not, after a power cut.
            done = self.results.get(number)
            if done is not None and not self.probes[number].problem and not self._is_there(number, part, done.crc):
                del self.results[number]

    def _is_there(self, number: int, part: Path, crc: int) -> bool:
        record = self.layout.records[number]
        try:
            with part.open("rb") as stream:
                stream.seek(record.offset)
                left, found = aligned_length(record), 0
                while left and (data := stream.read(min(left, 1 << 22))):
                    found, left = zlib.crc32(data, found), left - len(data)
        except OSError:
            return False
        return left == 0 and found == crc

    def _table(self, shard: int) -> Table:
        """The table of a shard, short of the records that are missing."""
        numbers = [number for number in self.layout.shards[shard] if number in self.results]
        records, done = [self.layout.records[n] for n in numbers], [self.results[n] for n in numbers]
        return make_table(
            [record.offset for record in records],
            [aligned_length(record) for record in records],
            [result.crc for result in done],
            [bool(result.problem) for result in done],
        )

    def check_space(self) -> None:
        """Refuse to begin what the disk cannot hold."""
        needed = 0
        for shard, size in enumerate(self.layout.sizes):
            if shard not in self.sealed:
                part = self.part(shard)
                needed += size - min(size, part.stat().st_blocks * 512 if part.is_file() else 0)
        stat = os.statvfs(self.folder)
        free = stat.f_bavail * stat.f_frsize
        if needed > free:
            raise DataError(f"{self.folder}: needs {needed / GIB:.1f} GiB more, the disk has {free / GIB:.1f} GiB free")

    def missing(self) -> list[int]:
        """Media without a record, in order; a shard that waits for none gets its name here."""
        for shard in range(len(self.left)):
            self._seal_if_whole(shard)
        return [number for number in range(len(self.media)) if number not in self.results]

    def add(self, number: int, done: Filled) -> None:
        """Note the record that was just written, and name its shard if it was the last one."""
        self.results[number] = done
        self.journal.append({**self._line(number), **asdict(done)})
        shard = self.layout.records[number].shard
        self.left[shard] -= 1
        self._seal_if_whole(shard)

    def _seal_if_whole(self, shard: int) -> None:
        if shard in self.sealed or self.left[shard]:
            return
        part, size = self.part(shard), self.layout.sizes[shard]
        try:
            with part.open("r+b" if part.is_file() else "w+b") as stream:
                stream.truncate(size)
                stream.write(encode_header(self.id, shard, size, self._table(shard)))
                stream.flush()
                os.fsync(stream.fileno())
            self.journal.sync()
            part.replace(self.final(shard))
            flush(self.folder)
        except OSError as error:
            raise DataError(f"{part}: cannot write: {error.strerror or error}") from error
        self.sealed.add(shard)

    def crcs(self) -> list[int]:
        """Checksum of each record in manifest order."""
        return [self.results[number].crc for number in range(len(self.media))]

    def problems(self) -> dict[int, str]:
        """Why media were left out, by number of the medium."""
        return {number: done.problem for number, done in sorted(self.results.items()) if done.problem}
