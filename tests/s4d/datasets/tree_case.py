"""What a test needs to know of a miniature dataset, and the tiny media that all of them are made of."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
from PIL import Image

SIZE = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Tree:
    """A miniature of `dataset` in its form on disk; `build` writes it below a folder that does not exist yet.

    `media` is the folder of the media, `medium` a file or folder of frames in it, both from the root. `listed` is a
    text file that names the medium in its line `line`, `name` and `label` are what stands there; None where folders
    are the labels. `split_by` divides the fields of that line. `fold` is set where one of several is to be trained on.
    `name_column` and `label_column` are what errors call the two fields. `bears` are the damages of
    test_wrong_trees.py that leave another valid dataset: a missing split, a label that is a class of its own.
    `warns` are warnings that `s4d data validate` has to give.
    """

    dataset: str
    form: str
    build: Callable[[Path], object]
    rows: int
    media: str
    medium: str
    listed: str | None = None
    line: int = 1
    name: str = ""
    label: str = ""
    split_by: str = ","
    name_column: str = "path"
    label_column: str = "label"
    fold: int | None = None
    bears: tuple[str, ...] = ()
    warns: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return f"{self.dataset}-{self.form}"


def ids(trees: Sequence[Tree]) -> list[str]:
    return [tree.id for tree in trees]


@lru_cache(maxsize=1024)
def picture(number: int, suffix: str = ".jpg") -> bytes:
    """A small encoded image of smooth random colours."""
    small = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    stream = io.BytesIO()
    image = Image.fromarray(small).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    image.save(stream, {".jpg": "JPEG", ".png": "PNG", ".bmp": "BMP"}[suffix])
    return stream.getvalue()


@lru_cache(maxsize=64)
def video(number: int, frames: int = 10) -> bytes:
    """A small H.264 clip in an mp4 file."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as container:
        track = container.add_stream("libx264", rate=25, options={"threads": "1", "preset": "ultrafast"})
        track.width = track.height = SIZE
        for frame in range(frames):
            pixels = np.asarray(Image.open(io.BytesIO(picture(number + frame))))
            container.mux(track.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(track.encode())
    return stream.getvalue()


def put(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def put_frames(folder: Path, count: int, name: str = "{}.jpg", first: int = 0) -> None:
    """Frames 1, 2, ... of one clip, under the names a dataset gives them; `first` tells clips apart."""
    for frame in range(1, count + 1):
        path = folder / name.format(frame)
        put(path, picture(first + frame, path.suffix))
