"""Still images and folders of frame files through Pillow."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from s4d.data.media import Frames, reading
from s4d.data.media_limits import IMAGE_FORMATS, check_image_file, check_image_size
from s4d.data.pillow_memory import rgb_pixels
from s4d.errors import DataError

# Pillow warns from a size on and refuses at its double; the limit here is lower and refuses.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Of the EXIF tag.
ORIENTATION = 0x0112


def _opened(path: Path) -> Image.Image:
    """An image whose header has been read and found to be within the limits."""
    check_image_file(path)
    image = Image.open(path, formats=IMAGE_FORMATS)
    try:
        check_image_size(path, image.size)
    except DataError:
        image.close()
        raise
    return image


def _load_image(path: Path, scale: float) -> NDArray[np.uint8]:
    with reading(path), _opened(path) as image:
        if scale <= 0.5:
            # A JPEG decodes directly at 1/2, 1/4 or 1/8 size, never below the size asked for.
            image.draft("RGB", (int(image.width * scale) + 1, int(image.height * scale) + 1))
        image.load()
        # Converting a picture to what it is already copies it.
        return rgb_pixels(image if image.mode == "RGB" else image.convert("RGB"))


def stored_orientation(path: Path) -> int:
    """The EXIF number of how an image wants to be turned, 1 for not at all, as where EXIF is damaged.

    DataError where the image cannot be read.
    """
    with reading(path), _opened(path) as image, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        number = image.getexif().get(ORIENTATION)
        return number if isinstance(number, int) else 1


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """Frames that are image files of their own: a still image is one of them."""

    paths: tuple[Path, ...]
    size: tuple[int, int]

    @property
    def frame_count(self) -> int:
        """Number of files."""
        return len(self.paths)

    def frames(self, indices: Iterable[int], scale: float = 1.0) -> Frames:
        """Decoded frames; see `Media.frames`."""
        return {index: _load_image(self.paths[index], scale) for index in sorted(set(indices))}


def open_files(paths: tuple[Path, ...]) -> ImageFiles:
    """Image files as the frames of one sample; DataError where the first is no image."""
    with reading(paths[0]), _opened(paths[0]) as first:
        return ImageFiles(paths, first.size)
