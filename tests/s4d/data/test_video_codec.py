"""A video's codec is that of the file as it is now."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from s4d.data.decode_video import video_codec
from s4d.errors import DataError


def test_a_replaced_file_is_looked_at_again(
    tmp_path: Path,
    write_clip: Callable[..., Path],
    write_vp9: Callable[..., Path],
    numbered_frame: Callable[[int], np.ndarray],
) -> None:
    frames = [numbered_frame(index) for index in range(4)]
    path = write_clip(tmp_path / "clip.mp4", frames)
    assert video_codec(path) == "h264"
    os.replace(write_vp9(tmp_path / "other.webm", frames), path)
    assert video_codec(path) == "vp9"
    path.unlink()
    with pytest.raises(DataError, match=r"clip\.mp4: cannot decode: No such file"):
        video_codec(path)
