"""Reading all frames of a sample in order and writing its crops, whole or not at all.

An image becomes one image file, a folder of frames a folder of frames numbered 00001 on in time order, a video an H.264
video in mp4 with the same frames at the same times, without sound.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray
from PIL import Image

from s4d.atomic_files import flush
from s4d.data import current_file
from s4d.data.crop.recipe import CropRecipe
from s4d.data.decode_video import DECODER_OPTIONS
from s4d.data.manifest import Kind
from s4d.data.media import Media, reading
from s4d.data.media_limits import video_input
from s4d.errors import DataError

VIDEO_SUFFIX = ".mp4"
# Nearly lossless, a keyframe in reach of every frame, and no frame that waits for a later one. One thread: the bit
# stream depends on their number.
ENCODER = {"preset": "medium", "crf": "14", "g": "16", "bf": "0", "threads": "1"}
DEFAULT_RATE = Fraction(25)

Picture = NDArray[np.uint8]


class OutputError(DataError):
    """Crops cannot be written: no fault of the medium, so nothing to skip it for."""


def read_frames(media: Media, path: Path, kind: Kind) -> Iterator[Picture]:
    """All frames of an opened sample in time order, one at a time; DataError where some cannot be decoded."""
    if kind != "video":
        for index in range(media.frame_count):
            yield media.frames((index,))[index]
        return
    count = 0
    with reading(path), _opened(path) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        stream.codec_context.options = DECODER_OPTIONS
        for frame in container.decode(stream):
            count += 1
            # A long video is not stuck while its frames come.
            current_file.starting(path)
            if count > media.frame_count:
                raise DataError(f"{path}: cannot decode: more than the {media.frame_count} frames that it lists")
            yield frame.to_ndarray(format="rgb24")  # type: ignore[misc]
    if count != media.frame_count:
        raise DataError(f"{path}: cannot decode: {media.frame_count - count} of {media.frame_count} frames are damaged")


def frame_times(path: Path) -> tuple[list[int] | None, Fraction, Fraction]:
    """Times of a video's frames in units of its time base (None: it has none), the time base, frames a second."""
    with reading(path), _opened(path) as container:
        stream = container.streams.video[0]
        rate = stream.average_rate or stream.guessed_rate or DEFAULT_RATE
        base = stream.time_base
        shown = [packet for packet in container.demux(stream) if packet.size and not packet.is_discard]
        times = sorted(packet.pts for packet in shown if packet.pts is not None)
        if base is None or len(times) != len(shown) or len(set(times)) != len(times):
            return None, 1 / rate, rate
        return [time - times[0] for time in times], base, rate


def write_crops(
    pictures: Iterable[Picture], source: Path, kind: Kind, target: Path, aside: Path, recipe: CropRecipe
) -> None:
    """Write the crops of one sample below `aside`, flush them and move them to `target` in one step.

    What an earlier, interrupted attempt left at either place is replaced. OutputError where nothing can be written.
    """
    made = aside / target.name
    try:
        remove(aside)
        aside.mkdir(parents=True)
        if kind == "video":
            _write_video(pictures, source, made, recipe.size)
        elif kind == "image":
            for picture in pictures:
                _write_image(picture, made, recipe)
        else:
            made.mkdir()
            for number, picture in enumerate(pictures, start=1):
                _write_image(picture, made / f"{number:05d}{recipe.suffix}", recipe)
            flush(made)
        target.parent.mkdir(parents=True, exist_ok=True)
        remove(target)
        made.rename(target)
        flush(target.parent)
        aside.rmdir()
    except (OSError, av.FFmpegError) as error:
        raise OutputError(f"{target}: cannot write: {error.strerror or error}") from error


def _opened(path: Path) -> InputContainer:
    """A video that `open_media` has found to be within the limits."""
    file, container_format, options = video_input(path)
    return av.open(file, format=container_format, options=options)


def remove(path: Path) -> None:
    """Remove a file or a folder with all it holds, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write_image(picture: Picture, path: Path, recipe: CropRecipe) -> None:
    image = Image.fromarray(picture)
    with path.open("wb") as stream:
        if recipe.quality is None:
            image.save(stream, "PNG")
        else:
            image.save(stream, "JPEG", quality=recipe.quality)
        stream.flush()
        os.fsync(stream.fileno())


def _write_video(pictures: Iterable[Picture], source: Path, path: Path, size: int) -> None:
    times, base, rate = frame_times(source)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options=ENCODER)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = base
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number if times is None else times[number]
            frame.time_base = base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    flush(path)
