"""Textured clips and stills in several containers."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

SIDE = 96


def scene(seed: int, count: int, *, side: int = SIDE) -> list[np.ndarray]:
    """Frames of a smooth random picture that slowly moves, (side, side, 3) uint8 each."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    wide = np.asarray(Image.fromarray(small).resize((2 * side, 2 * side), Image.Resampling.BICUBIC))
    return [np.ascontiguousarray(wide[i % side : i % side + side, i % side : i % side + side]) for i in range(count)]


def write_movie(
    path: Path, frames: list[np.ndarray], *, codec: str, container: str, options: dict[str, str] | None = None
) -> Path:
    """Encode frames at 25 a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format=container, options=options or {}) as file:
        stream = file.add_stream(codec, rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
    return path


def encoded(picture: np.ndarray, image_format: str, **options: object) -> bytes:
    """Bytes of a still image file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, image_format, **options)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def make_scene() -> Callable[..., list[np.ndarray]]:
    return scene


@pytest.fixture(scope="session")
def make_movie() -> Callable[..., Path]:
    return write_movie


@pytest.fixture(scope="session")
def encode_still() -> Callable[..., bytes]:
    return encoded
