"""Small whole media of every container and codec that is read, to be damaged."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from PIL import Image

SIZE = 64
FRAMES = 12
# Made to be cut anywhere, so that nothing in them tells where they end.
STREAMS = (".mpg", ".ts", ".h264")

# name: codec, container, options of the encoder, options of the container
VIDEOS: dict[str, tuple[str, str, dict[str, str], dict[str, str]]] = {
    "h264.mp4": ("libx264", "mp4", {"g": "5"}, {}),
    "h264-index-first.mp4": ("libx264", "mp4", {"g": "5", "bf": "2"}, {"movflags": "faststart"}),
    "h264-fragments.mp4": ("libx264", "mp4", {"g": "4"}, {"movflags": "frag_keyframe+empty_moov"}),
    "h264.mkv": ("libx264", "matroska", {"g": "5"}, {}),
    "h264.avi": ("libx264", "avi", {"g": "5", "bf": "0"}, {}),
    "hevc.mp4": ("libx265", "mp4", {"x265-params": "log-level=none:keyint=5:pools=none"}, {}),
    "hevc.mkv": ("libx265", "matroska", {"x265-params": "log-level=none:keyint=5:pools=none"}, {}),
    "vp9.webm": ("libvpx-vp9", "webm", {"g": "5", "cpu-used": "8"}, {}),
    "vp9.mkv": ("libvpx-vp9", "matroska", {"g": "5", "cpu-used": "8"}, {}),
    "vp9.mp4": ("libvpx-vp9", "mp4", {"g": "5", "cpu-used": "8"}, {}),
    "mpeg4.mp4": ("mpeg4", "mp4", {"g": "5"}, {}),
    "mpeg4.avi": ("mpeg4", "avi", {"g": "5", "bf": "2"}, {}),
    "mpeg4.mkv": ("mpeg4", "matroska", {"g": "5"}, {}),
    "vp8.webm": ("libvpx", "webm", {"g": "5", "cpu-used": "8"}, {}),
    "av1.mp4": ("libsvtav1", "mp4", {"g": "5", "preset": "12"}, {}),
    "mjpeg.avi": ("mjpeg", "avi", {}, {}),
    "mpeg2.mpg": ("mpeg2video", "mpeg", {"g": "5"}, {}),
    "mpeg2.ts": ("mpeg2video", "mpegts", {"g": "5"}, {}),
    "bare.h264": ("libx264", "h264", {"g": "5", "bf": "0"}, {}),
}
IMAGES: dict[str, tuple[str, str, dict[str, object]]] = {
    "plain.jpg": ("JPEG", "RGB", {"quality": 90}),
    "progressive.jpg": ("JPEG", "RGB", {"progressive": True}),
    "grey.jpg": ("JPEG", "L", {}),
    "print.jpg": ("JPEG", "CMYK", {}),
    "restarts.jpg": ("JPEG", "RGB", {"restart_marker_rows": 1}),
    "plain.png": ("PNG", "RGB", {}),
    "palette.png": ("PNG", "P", {}),
    "alpha.png": ("PNG", "RGBA", {"compress_level": 1}),
    "deep.png": ("PNG", "I;16", {}),
    "lossy.webp": ("WEBP", "RGB", {"quality": 60}),
    "lossless.webp": ("WEBP", "RGBA", {"lossless": True}),
    "plain.bmp": ("BMP", "RGB", {}),
    "palette.bmp": ("BMP", "P", {}),
    "plain.tif": ("TIFF", "RGB", {}),
    "lzw.tif": ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    "deflate.tif": ("TIFF", "L", {"compression": "tiff_adobe_deflate"}),
    "jpeg.tif": ("TIFF", "RGB", {"compression": "jpeg"}),
}


def picture(number: int) -> Image.Image:
    """Smooth colours with some grain, another one for each number."""
    draw = np.random.default_rng(number)
    small = Image.fromarray(draw.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    pixels = np.asarray(small.resize((SIZE, SIZE), Image.Resampling.BICUBIC)).astype(np.int16)
    return Image.fromarray((pixels + draw.integers(-12, 13, pixels.shape)).clip(0, 255).astype(np.uint8))


def write_video(path: Path, name: str) -> None:
    """A clip of `FRAMES` frames; a sound track too where the container holds one in practice."""
    codec, container_format, options, container_options = VIDEOS[name]
    with av.open(str(path), "w", format=container_format, options=container_options) as container:
        stream = container.add_stream(codec, rate=25, options={"threads": "1", **options})
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        sound = container.add_stream("aac", rate=16000) if name in ("h264.mp4", "h264.mkv") else None
        for number in range(FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_image(picture(number))))
            if sound is not None:
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                silence.sample_rate = 16000
                container.mux(sound.encode(silence))
        container.mux(stream.encode())
        if sound is not None:
            container.mux(sound.encode())


def image(name: str) -> bytes:
    """One image file."""
    image_format, mode, options = IMAGES[name]
    stream = io.BytesIO()
    pixels = picture(99)
    if mode == "I;16":
        pixels = Image.fromarray(np.asarray(pixels.convert("L")).astype(np.uint16) * 257)
    else:
        pixels = pixels.convert(mode)
    pixels.save(stream, image_format, **options)
    return stream.getvalue()


def write_whole(folder: Path) -> None:
    """Write every file that is not there yet."""
    for name in VIDEOS:
        if not (folder / name).exists():
            aside = folder / f".{name}"
            write_video(aside, name)
            aside.rename(folder / name)
    for name in IMAGES:
        if not (folder / name).exists():
            (folder / name).write_bytes(image(name))


def whole(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    """Name, kind and content of every file."""
    for name in (*VIDEOS, *IMAGES):
        yield name, "video" if name in VIDEOS else "image", (folder / name).read_bytes()
