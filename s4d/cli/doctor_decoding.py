"""Which codecs decode here: two grey frames of each are encoded, and every decoder tries them.

A list of what a library claims would not tell of a driver without video or a build that left a codec out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s4d.data.media_limits import IMAGE_FORMATS, VIDEO_CODECS

# Above what the hardware's decoders take at least.
SIDE = 256
FRAMES = 2
# Codecs of nearly all datasets, with encoders that FFmpeg may have for them.
ENCODERS = {
    "h264": ("libx264", "libopenh264"),
    "hevc": ("libx265",),
    "vp9": ("libvpx-vp9",),
    "av1": ("libsvtav1", "libaom-av1"),
    "mpeg4": ("mpeg4",),
}
UNTRIED = "not tried: this FFmpeg cannot encode it"


def _grey() -> NDArray[np.uint8]:
    return np.full((SIDE, SIDE, 3), 128, dtype=np.uint8)


@cache
def _clip(codec: str) -> bytes | None:
    """An mp4 file of grey frames; None where no encoder is there."""
    import av

    av.logging.set_level(av.logging.PANIC)
    for encoder in ENCODERS[codec]:
        file = BytesIO()
        try:
            with av.open(file, "w", format="mp4") as container:
                stream: Any = container.add_stream(encoder, rate=25)
                stream.width = stream.height = SIDE
                stream.pix_fmt = "yuv420p"
                for _ in range(FRAMES):
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(_grey(), format="rgb24")))
                container.mux(stream.encode(None))
        except (av.FFmpegError, ValueError):
            continue
        return file.getvalue()
    return None


def _picture(form: str) -> bytes:
    from PIL import Image

    file = BytesIO()
    Image.fromarray(_grey()).save(file, form)
    return file.getvalue()


def _outcome(trial: Callable[..., object], *arguments: object, **named: object) -> str | None:
    """None where a trial works, else why it does not."""
    try:
        trial(*arguments, **named)
    except Exception as error:
        told = str(error).rpartition("encountered:")[2] or str(error)
        lines = [" ".join(line.split()) for line in told.splitlines() if line.strip()]
        return lines[0] if lines else type(error).__name__
    return None


def by_pyav() -> dict[str, str | None]:
    """Codec: None where PyAV decodes it, else why not."""
    import av

    def decode(content: bytes) -> None:
        with av.open(BytesIO(content), "r") as container:
            if len(list(container.decode(video=0))) != FRAMES:
                raise ValueError("frames are missing")

    return _each_clip(decode)


def without_decoder() -> list[str]:
    """Codecs that are allowed in a dataset and that FFmpeg has no decoder for; some have several names."""
    import av

    return sorted(name for name in VIDEO_CODECS if _outcome(av.Codec, name, "r") is not None)


def by_pillow() -> dict[str, str | None]:
    """Image format: None where Pillow decodes it, else why not."""
    from PIL import Image

    def decode(form: str) -> None:
        with Image.open(BytesIO(_picture(form)), formats=[form]) as image:
            image.load()

    return {form: _outcome(decode, form) for form in IMAGE_FORMATS}


def by_dali(device: str) -> dict[str, str | None]:
    """Codec: None where DALI decodes it on the "cpu" or "gpu", else why not; through the pipelines of training."""
    found = _each_clip(lambda content: _run_dali(device, content, video=True))
    return {**found, "jpeg": _outcome(_run_dali, device, _picture("JPEG"), video=False)}


def _run_dali(device: str, content: bytes, *, video: bool) -> None:
    import torch

    from s4d.data.dali.pipelines import INTERPOLATION, Shape, build_pipeline

    place = torch.device("cuda", 0) if device == "gpu" else torch.device("cpu")
    pipeline = build_pipeline(Shape(video=video, cuts=1, frames=FRAMES, size=32), place, 1, 1)
    inputs: dict[str, Any] = {
        "encoded": np.frombuffer(content, dtype=np.uint8),
        "start0": np.zeros(2, dtype=np.float32),
        "end0": np.ones(2, dtype=np.float32),
        "interpolation0": np.array(INTERPOLATION["bilinear"], dtype=np.int32),
    }
    if video:
        inputs |= {name: np.arange(FRAMES, dtype=np.int32) for name in ("frames", "order0")}
    for name, value in inputs.items():
        pipeline.feed_input(name, [value])
    pipeline.run()


def _each_clip(decode: Callable[[bytes], object]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for codec in ENCODERS:
        content = _clip(codec)
        found[codec] = UNTRIED if content is None else _outcome(decode, content)
    return found
