"""Looks at one video file, packet by packet and frame by frame."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import av
import av.logging
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter

from s4d.data.decode_video import DECODER_OPTIONS
from s4d.data.media import open_media, reading
from s4d.data.media_limits import video_input
from s4d.data.scan.digest import content_digest
from s4d.data.scan.ending import missing_end
from s4d.data.scan.look import Look
from s4d.data.scan.perceptual import SIDE
from s4d.data.scan.record import Probe
from s4d.errors import DataError

# Two distances between frames differ when they are this part apart: containers round times to milliseconds.
UNEVEN = 0.2
# A Matroska header states the duration; a stream that ends this many frames (and this part) earlier was cut.
EARLY_FRAMES, EARLY_PART = 3.0, 0.02
# What FFmpeg says of a Matroska file without a length, as streaming writes it, that stops inside an element.
EARLY_END = "ended prematurely"


def probe_video(path: Path, start: Probe, *, quick: bool) -> Probe:
    """`start` with what the file says; unless `quick`, every frame is decoded and the content hashed."""
    with _complaints() as complaints:
        found = _looked_at(path, start, quick=quick)
    if any(EARLY_END in text for _, _, text in complaints):
        raise DataError(f"{path}: truncated: the file ends in the middle of a packet")
    return replace(found, warnings=found.warnings + len(complaints))


@contextmanager
def _complaints() -> Iterator[list[tuple[int, str, str]]]:
    """What FFmpeg says of errors meanwhile, instead of printing it."""
    level, skip = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.ERROR)
    # Left on, this hides what was already said of the file before.
    av.logging.set_skip_repeated(False)
    try:
        with av.logging.Capture() as complaints:
            yield complaints
    finally:
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skip)


def _looked_at(path: Path, start: Probe, *, quick: bool) -> Probe:
    media = open_media(path, "video")
    lacks = missing_end(path)
    if lacks is not None:
        raise DataError(f"{path}: {lacks}")
    with reading(path), _container(path) as container:
        found = _header(container, replace(start, header_frames=media.frame_count))
        if quick:
            return replace(found, frames=media.frame_count)
        found = _decoded(container, found)
        if "matroska" in container.format.name and len(container.streams) == 1:
            _refuse_early_end(path, found)
    return replace(found, sha256=content_digest([path]))


@contextmanager
def _container(path: Path) -> Iterator[InputContainer]:
    file, container_format, options = video_input(path)
    with av.open(file, format=container_format, options=options) as container:
        yield container


def _header(container: InputContainer, start: Probe) -> Probe:
    stream = container.streams.video[0]
    context = stream.codec_context
    duration = None
    if stream.duration and stream.time_base:
        duration = float(stream.duration * stream.time_base)
    elif container.duration:
        duration = container.duration / av.time_base
    return replace(
        start,
        width=context.width,
        height=context.height,
        fps=round(float(stream.average_rate), 4) if stream.average_rate else None,
        duration=duration,
        codec=context.name,
    )


def _decoded(container: InputContainer, found: Probe) -> Probe:
    """Decode everything; frames that the decoder marks as damaged are counted."""
    stream = container.streams.video[0]
    stream.thread_count = 1
    stream.codec_context.options = DECODER_OPTIONS
    look = Look(announced=found.header_frames or 0)
    convert = VideoReformatter()
    times = []
    damaged = 0
    for frame in container.decode(stream):
        small = convert.reformat(frame, SIDE, SIDE, "rgb24", interpolation="AREA", threads=1)
        look.add(small.to_ndarray().astype(np.uint8, copy=False))
        damaged += frame.is_corrupt
        if frame.pts is not None:
            times.append(frame.pts)
    return replace(found, warnings=damaged, variable_rate=_is_uneven(times), **look.facts())


def _is_uneven(times: list[int]) -> bool:
    """Whether the frames of a clip stand for different durations."""
    steps = np.diff(np.sort(np.array(times, dtype=np.int64)))
    if len(steps) < 2:
        return False
    usual = np.median(steps)
    return bool(np.abs(np.subtract(steps, usual)).max() > max(1.0, UNEVEN * float(usual)))


def _refuse_early_end(path: Path, found: Probe) -> None:
    """DataError where a Matroska file holds fewer frames than its duration has room for at its own rate."""
    if found.duration is None or not found.fps or found.variable_rate:
        return
    expected = found.duration * found.fps
    if found.frames is not None and expected - found.frames > max(EARLY_FRAMES, EARLY_PART * expected):
        raise DataError(f"{path}: truncated: {found.frames} frames in {found.duration:.2f} s at {found.fps:g} a second")
