"""Crop and resize gives the same pixels by the native library and by Pillow."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from kernels import native
from s4d.data import resample as module
from s4d.data.resample import RESAMPLE, resample


@pytest.fixture(params=["native", "Pillow"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Both ways, the one for machines without a compiler included."""
    if request.param == "native" and not native.status()[0]:
        pytest.skip(native.status()[1])
    if request.param == "Pillow":
        monkeypatch.setattr(native, "status", lambda: (False, "gone"))
    module._is_native.cache_clear()
    yield request.param
    module._is_native.cache_clear()


@pytest.mark.parametrize("step", [3, 4])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("box", [(3.25, 1.5, 60.75, 47.0), (10.0, 9.0, 42.0, 41.0), (0.0, 0.0, 70.0, 50.0)])
def test_frames_are_written_to_their_places(
    path: str, box: module.Box, flip: bool, interpolation: str, step: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        memory = np.random.default_rng(0).integers(0, 256, (3, 50, 76, step), dtype=np.uint8)
        frames = memory[:, :, :70, :3]
        frames.flags.writeable = False
        out = np.zeros((4, 32, 32, 3), np.uint8)
        resample(frames, box, out[1:], interpolation=interpolation, flip=flip)
    for frame, pixels in zip(frames, out[1:], strict=True):
        image = Image.fromarray(np.ascontiguousarray(frame)).resize((32, 32), RESAMPLE[interpolation], box=box)
        assert np.array_equal(pixels, np.asarray(image)[:, ::-1] if flip else np.asarray(image))
    assert not out[0].any()
    assert ("crop and resize: by Pillow" in caplog.text) == (path == "Pillow")
