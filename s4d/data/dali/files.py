"""What DALI is asked for: encoded files, the frames wanted of each, and the views cut out of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from s4d.data.buffers import pixel_buffer
from s4d.data.draws import SampleDraw
from s4d.errors import DataError

# Top and left, or bottom and right, of a part of a frame, as shares of the frame.
Corner = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """One view's part of a file: `order` picks its frames among the decoded ones, in the view's order.

    The part goes from `start` to `end` and is resized to the model's size; a view that is flipped has its right edge
    first. The pixels belong to the frames `places` of view `row` of the modality.
    """

    order: tuple[int, ...]
    start: Corner
    end: Corner
    interpolation: str
    modality: str
    row: int
    places: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedFile:
    """A file to decode once: bytes `begin` to `end` of the batch's encoded bytes, frames `frames` of it, its cuts.

    `sample` is the source number and row it is read for.
    """

    sample: tuple[int, int]
    path: Path
    video: bool
    begin: int
    end: int
    frames: tuple[int, ...]
    cuts: tuple[Cut, ...]


def corners(draw: SampleDraw) -> tuple[Corner, Corner]:
    """Start and end of a view's crop; a flip swaps left and right."""
    (width, height), (left, top, across, down) = draw.resized, draw.crop_box
    sides = max(0.0, left / width), min(1.0, (left + across) / width)
    if draw.flip:
        sides = sides[1], sides[0]
    return (max(0.0, top / height), sides[0]), (min(1.0, (top + down) / height), sides[1])


def video_cuts(draws: list[SampleDraw], modality: str, rows: range) -> tuple[tuple[int, ...], tuple[Cut, ...]]:
    """Frames to decode for all views of one video, each once, and the cut of each view."""
    frames = tuple(sorted({index for draw in draws for index in draw.frame_indices}))
    place = {index: number for number, index in enumerate(frames)}
    cuts = []
    for draw, row in zip(draws, rows, strict=True):
        start, end = corners(draw)
        cuts.append(
            Cut(
                order=tuple(place[index] for index in draw.frame_indices),
                start=start,
                end=end,
                interpolation=draw.interpolation,
                modality=modality,
                row=row,
                places=tuple(range(len(draw.frame_indices))),
            )
        )
    return frames, tuple(cuts)


def image_cuts(draws: list[SampleDraw], modality: str, rows: range) -> dict[int, tuple[Cut, ...]]:
    """Frame number -> its cuts, for samples whose every frame is a file; a frame that a view repeats is cut once."""
    cuts: dict[int, list[Cut]] = {}
    for draw, row in zip(draws, rows, strict=True):
        start, end = corners(draw)
        for index in dict.fromkeys(draw.frame_indices):
            cuts.setdefault(index, []).append(
                Cut(
                    order=(0,),
                    start=start,
                    end=end,
                    interpolation=draw.interpolation,
                    modality=modality,
                    row=row,
                    places=tuple(place for place, other in enumerate(draw.frame_indices) if other == index),
                )
            )
    return {index: tuple(items) for index, items in cuts.items()}


class ByteStore:
    """Encoded files that are put end to end, so that all of a batch travel as one tensor."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, path: Path) -> tuple[int, int]:
        """Read a file; its begin and end among the bytes. DataError where it cannot be read or is empty."""
        try:
            part = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot decode: {error.strerror}") from error
        if not part:
            raise DataError(f"{path}: cannot decode: the file is empty")
        self._parts.append(part)
        self._size += len(part)
        return self._size - len(part), self._size

    def join(self) -> Tensor:
        """All files, uint8; within a decoding process in memory shared with the training process."""
        joined = pixel_buffer((self._size,))
        begin = 0
        for part in self._parts:
            joined.numpy()[begin : begin + len(part)] = np.frombuffer(part, dtype=np.uint8)
            begin += len(part)
        return joined
