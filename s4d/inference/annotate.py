"""A copy of the input with the answer beside the picture: a video with the window's probabilities, or a still image."""

from __future__ import annotations

import bisect
import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
from matplotlib import get_data_path
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from s4d.atomic_files import flush, write_atomically
from s4d.errors import DataError
from s4d.inference.clip import Clip
from s4d.inference.plot import colour_of
from s4d.inference.prediction import Prediction, Window

# Height of the picture in pixels; smaller ones are enlarged, so that the panel can be read.
LEAST_HEIGHT, MOST_HEIGHT, MOST_WIDTH = 360, 720, 1280
PANEL_WIDTH = 320
MARGIN = 16
PAPER, INK, MUTED, TRACK = "#171b21", "#e8ecf1", "#a4afbd", "#333b46"
# Times are counted in units that every encoder can count in; 65,535 is the most for MPEG-4.
TIME_BASE = Fraction(1, 60000)
FALLBACK_FPS = 25.0
# The first that this machine has.
ENCODERS: dict[str, dict[str, str]] = {
    "libx264": {"preset": "medium", "crf": "20"},
    "libopenh264": {},
    "mpeg4": {"qscale": "4"},
}


def annotate_image(clip: Clip, prediction: Prediction, path: Path) -> None:
    """Write a PNG of the picture with the answer beside it."""
    _, pixels = next(clip.stream([0]))
    size = picture_size(clip.size)
    picture = beside(pixels, panel(prediction, None, size[1]), size)
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "PNG")
    write_atomically(path, content.getvalue())


def annotate_video(clip: Clip, prediction: Prediction, path: Path) -> None:
    """Write an mp4, without sound, in which each frame has the answer of the window around it; whole or not at all."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(clip, prediction, aside)
        flush(aside)
        aside.replace(path)
    except (OSError, av.FFmpegError) as error:
        raise DataError(f"{path}: cannot write: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()


def find_encoder() -> str:
    """Name of the first encoder that this machine has; DataError where it has none."""
    name = next((name for name in ENCODERS if name in av.codecs_available), None)
    if name is None:
        raise DataError(f"no video encoder in this build of PyAV ({', '.join(ENCODERS)})")
    return name


def _write(clip: Clip, prediction: Prediction, path: Path) -> None:
    encoder = find_encoder()
    size = picture_size(clip.size)
    with av.open(str(path), "w", format="mp4") as container:
        rate = Fraction(clip.fps or FALLBACK_FPS).limit_denominator(1001)
        stream = container.add_stream(encoder, rate=rate, options=ENCODERS[encoder])
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = size[0] + PANEL_WIDTH, size[1]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = TIME_BASE
        last = -1
        for picture, seconds in _pictures(clip, prediction, size):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = last = max(last + 1, round(seconds / TIME_BASE))
            frame.time_base = TIME_BASE
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _pictures(clip: Clip, prediction: Prediction, size: tuple[int, int]) -> Iterator[tuple[NDArray[np.uint8], float]]:
    middles = [(window.first + window.last) / 2 for window in prediction.windows]
    shown, current = panel(prediction, None, size[1]), -1
    for index, pixels in clip.stream(range(clip.frame_count)):
        wanted = nearest(middles, index)
        if wanted != current:
            shown, current = panel(prediction, prediction.windows[wanted], size[1]), wanted
        seconds = clip.seconds(index)
        yield beside(pixels, shown, size), seconds if seconds is not None else index / FALLBACK_FPS


def nearest(middles: Sequence[float], frame: int) -> int:
    """Number of the window whose middle is nearest to a frame; the earlier of two. -1 without windows."""
    after = bisect.bisect_left(middles, frame)
    if after == 0 or after == len(middles):
        return min(after, len(middles) - 1)
    return after if middles[after] - frame < frame - middles[after - 1] else after - 1


def picture_size(size: tuple[int, int]) -> tuple[int, int]:
    """Even width and height at which a frame of `size` is shown beside the panel."""
    height = min(max(size[1], LEAST_HEIGHT), MOST_HEIGHT)
    scale = min(height / size[1], MOST_WIDTH / size[0])
    return max(2, round(size[0] * scale / 2) * 2), max(LEAST_HEIGHT, round(size[1] * scale / 2) * 2)


def beside(pixels: NDArray[np.uint8], panel: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The frame, as large as fits into `size`, with the panel to its right."""
    canvas = Image.new("RGB", (size[0] + panel.width, size[1]), PAPER)
    scale = min(size[0] / pixels.shape[1], size[1] / pixels.shape[0])
    across, down = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
    picture = Image.fromarray(pixels).resize((across, down), Image.Resampling.BILINEAR)
    canvas.paste(picture, ((size[0] - across) // 2, (size[1] - down) // 2))
    canvas.paste(panel, (size[0], 0))
    return np.asarray(canvas)


def panel(prediction: Prediction, window: Window | None, height: int) -> Image.Image:
    """Label and a bar for each class, of a window or (None) of the whole."""
    image = Image.new("RGB", (PANEL_WIDTH, height), PAPER)
    draw = ImageDraw.Draw(image)
    values = prediction.probabilities if window is None else window.probabilities
    best = int(values.argmax())
    inner = PANEL_WIDTH - 2 * MARGIN
    label = f"{prediction.classes[best]} {values[best]:.0%}"
    draw.text((MARGIN, MARGIN), label, font=_fitting(label, inner), fill=INK)
    rows = len(prediction.classes)
    top, bottom = MARGIN + 44, height - MARGIN - 24
    step = min(44.0, (bottom - top) / rows)
    text_size = max(7, min(15, int(step * 0.45)))
    bar = max(2, int(step * 0.28))
    for number, (name, value) in enumerate(zip(prediction.classes, values, strict=True)):
        y = top + number * step
        font = _font(text_size, bold=number == best)
        draw.text((MARGIN, y), _cut(name, font, inner - 50), font=font, fill=INK if number == best else MUTED)
        draw.text((PANEL_WIDTH - MARGIN, y), f"{value:.0%}", font=font, fill=MUTED, anchor="ra")
        y += text_size * 1.3
        draw.rectangle((MARGIN, y, MARGIN + inner, y + bar), fill=TRACK)
        draw.rectangle((MARGIN, y, MARGIN + max(1, round(inner * float(value))), y + bar), fill=colour_of(number))
    draw.text((MARGIN, height - MARGIN - 14), _when(window), font=_font(12), fill=MUTED)
    return image


def _when(window: Window | None) -> str:
    if window is None:
        return "whole"
    if window.start is None or window.end is None:
        return f"frames {window.first} to {window.last}"
    return f"{window.start:.2f} to {window.end:.2f} s"


def _fitting(text: str, width: int) -> ImageFont.FreeTypeFont:
    """The largest bold type in which a text fits, down to one that can just be read."""
    for size in range(26, 9, -1):
        if _font(size, bold=True).getlength(text) <= width:
            return _font(size, bold=True)
    return _font(9)


def _cut(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."


@lru_cache
def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The type that comes with matplotlib, so that every machine has it."""
    return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans{'-Bold' if bold else ''}.ttf", size)
