"""A shard mapped into memory, and the frames of a sample as views of it."""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from s4d.data.cache.layout import Record
from s4d.data.media import Frames
from s4d.errors import DataError

# Each map holds two open files, of which a process may have 1,024.
OPEN_MAPS = 200


class MappedShard:
    """One shard file; `size` is what it must have, since reading behind the end of a map ends the process."""

    def __init__(self, path: Path, size: int) -> None:
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            weakref.finalize(self, os.close, self._file)
            found = os.fstat(self._file).st_size
            if found != size:
                raise DataError(f"{path}: size: expected {size} bytes, got {found}")
            self.memory = mmap.mmap(self._file, size, prot=mmap.PROT_READ)
        except OSError as error:
            raise DataError(f"{path}: cannot map this shard: {error.strerror}") from error

    def expect(self, places: list[int], length: int) -> None:
        """Have the disk read `length` bytes at all `places` at once, unless they are in memory already.

        Touched page by page, a cold disk is waited for frame after frame. MADV_RANDOM would turn off reading ahead
        within a frame too, which costs more than it saves.
        """
        if all(self._is_in_memory(place + length // 2) for place in (places[0], places[len(places) // 2], places[-1])):
            return
        for place in places:
            start = place // mmap.PAGESIZE * mmap.PAGESIZE
            self.memory.madvise(mmap.MADV_WILLNEED, start, place + length - start)

    def _is_in_memory(self, place: int) -> bool:
        """Whether a byte can be read without waiting; no where the file system cannot say."""
        try:
            return os.preadv(self._file, [bytearray(1)], place, os.RWF_NOWAIT) == 1
        except OSError:
            return False


@lru_cache(maxsize=OPEN_MAPS)
def mapped_shard(folder: str, name: str, size: int) -> MappedShard:
    """The map of a shard in this process, opened when it is first asked for."""
    return MappedShard(Path(folder) / name, size)


@dataclass(frozen=True, slots=True)
class CachedFrames:
    """A sample as the cache has it: frame count and size are the medium's own, its frames are smaller."""

    frame_count: int
    size: tuple[int, int]
    record: Record
    shard: MappedShard

    def frames(self, indices: Iterable[int], scale: float = 1.0) -> Frames:
        """Views of the mapped shard, not to be written to; see `Media.frames`."""
        record, (width, height) = self.record, self.record.stored
        place_of = {index: record.offset + index // record.step * record.pitch for index in indices}
        self.shard.expect(sorted(place_of.values()), height * width * 3)
        return {index: self._frame(place, height, width) for index, place in place_of.items()}

    def _frame(self, place: int, height: int, width: int) -> NDArray[np.uint8]:
        return np.ndarray((height, width, 3), np.uint8, buffer=self.shard.memory, offset=place)
