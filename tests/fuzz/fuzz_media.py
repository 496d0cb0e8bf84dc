"""Damaged media through `open_media`: pixels or one line with the file's name."""

from __future__ import annotations

from pathlib import Path

import fuzz_files
import numpy as np
from fuzz_bytes import damaged
from fuzz_case import one_line

from s4d.data.media import open_media
from s4d.errors import DataError

MAX_WANTED = 4


def prepare(folder: Path) -> None:
    """Files that all cases start from."""
    fuzz_files.write_whole(folder)


def run(number: int, folder: Path) -> str:
    """Case `number`: read a few frames of a damaged file."""
    draw = np.random.default_rng([23, number])
    files = list(fuzz_files.whole(folder))
    name, kind, content = files[number % len(files)]
    path = folder / f"case-{number}-{name}"
    path.write_bytes(damaged(content, draw))
    try:
        media = open_media(path, kind)
        wanted = draw.integers(0, media.frame_count, MAX_WANTED).tolist()
        scale = float(draw.choice((1.0, 0.5, 0.2)))
        frames = media.frames(wanted, scale)
        assert set(frames) == set(wanted), f"asked for frames {wanted}, got {sorted(frames)}"
        for pixels in frames.values():
            assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3, pixels.shape
            # Every pixel is touched, so that memory that is not there shows.
            int(pixels.max())
    except DataError as error:
        return one_line(error, path)
    finally:
        path.unlink()
    return "read"
