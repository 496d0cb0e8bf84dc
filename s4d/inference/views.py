"""From an opened clip to the pixels of many views, in one pass over its frames.

Every frame is resized as it is decoded and then let go of, so that a film of two hours needs as much memory as a clip.
Letters: F frames of a view, S pixels a side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from s4d.data.draws import SampleDraw
from s4d.data.resample import resample
from s4d.data.transform import needed_scale, pixel_box
from s4d.inference.clip import Clip, Pixels

# Draws by their crop, which frames are resized once for: (place of the view, frame of the view).
_Users = dict[tuple[float, float, float, float], list[tuple[int, int]]]


def stream_views(
    clip: Clip, draws: Sequence[SampleDraw], size: int, *, small_decode: bool
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """(place in `draws`, pixels (F, S, S, 3)) of each view, as soon as its last frame is there.

    The pixels are those that an evaluation reads. `small_decode` lets JPEG files be decoded at a fraction of their
    size. DataError names a file that cannot be decoded.
    """
    users: dict[int, _Users] = {}
    for place, draw in enumerate(draws):
        for position, index in enumerate(draw.frame_indices):
            users.setdefault(index, {}).setdefault(draw.crop_box, []).append((place, position))
    scale = max(needed_scale(draw, clip.size, size) for draw in draws) if small_decode else 1.0
    unfinished: dict[int, NDArray[np.uint8]] = {}
    missing = {place: len(draw.frame_indices) for place, draw in enumerate(draws)}
    for index, frame in clip.stream(users, scale):
        for wanted in users.pop(index).values():
            small = _resized(frame, draws[wanted[0][0]], size)
            for place, position in wanted:
                if place not in unfinished:
                    unfinished[place] = np.empty((missing[place], size, size, 3), np.uint8)
                unfinished[place][position] = small
                missing[place] -= 1
                if not missing[place]:
                    yield place, unfinished.pop(place)


def _resized(frame: Pixels, draw: SampleDraw, size: int) -> NDArray[np.uint8]:
    out = np.empty((size, size, 3), np.uint8)
    height, width, _ = frame.shape
    box = pixel_box(draw, (width, height))
    resample([frame], box, [out], interpolation=draw.interpolation, flip=draw.flip)
    return out
