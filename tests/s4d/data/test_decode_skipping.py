"""Leaving out frames that nothing is predicted from changes no other frame, for every codec that it is done for."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from s4d.data import decode_video
from s4d.data.decode_video import VideoFile, forget_videos, open_video
from s4d.errors import DataError

FRAMES = 48
X264 = {
    "plain": "bframes=0:keyint=12",
    "default": "",
    "pyramid": "bframes=5:b-pyramid=normal:b-adapt=0:keyint=24",
    "flat": "bframes=3:b-pyramid=none:keyint=20",
    "open": "open-gop=1:bframes=4:keyint=12",
    "fields": "interlaced=1:bframes=3:keyint=16",
    "many references": "ref=8:bframes=2:weightp=2:keyint=48",
    "gradual refresh": "intra-refresh=1:bframes=2:keyint=16",
}
X265 = {
    "plain": "bframes=0:keyint=12:open-gop=0",
    "default": "",
    "pyramid": "bframes=6:b-adapt=0:b-pyramid=1:keyint=24",
    "open": "open-gop=1:bframes=4:keyint=12:b-adapt=0",
    "layers": "temporal-layers=3:bframes=4:keyint=24:b-adapt=0",
}
CASES = [
    *(("libx264", {"x264-params": params}, suffix) for params in X264.values() for suffix in ("mp4", "mkv")),
    ("libx264", {}, "ts"),
    *(("libx265", {"x265-params": f"log-level=none:pools=1:{params}"}, "mp4") for params in X265.values()),
    ("libx265", {"x265-params": "log-level=none:pools=1"}, "mkv"),
    *(("mpeg4", {"bf": bf, "g": "12", "qscale": "4"}, suffix) for bf in ("0", "2") for suffix in ("mp4", "avi")),
    ("libvpx-vp9", {"cpu-used": "8"}, "webm"),
]


def moving(index: int) -> NDArray[np.uint8]:
    """Texture that moves, brightens and has noise, so that every frame is different and predicted from others."""
    rng = np.random.default_rng(index)
    grid = np.add.outer(np.sin(np.arange(48) / 3 + index / 2), np.cos(np.arange(64) / 5 - index / 3))
    noise = rng.normal(0, 6, (48, 64, 3))
    return np.clip(128 + 45 * grid[..., None] + index + noise, 0, 255).astype(np.uint8)


def encode(path: Path, codec: str, options: dict[str, str]) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(moving(index), format="rgb24")))
        container.mux(stream.encode())
    return path


def every_frame(path: Path) -> list[NDArray[np.uint8]]:
    with av.open(str(path)) as container:
        frames = sorted(container.decode(video=0), key=lambda frame: frame.pts or 0)
        return [frame.to_ndarray(format="rgb24") for frame in frames]


@pytest.mark.parametrize(("codec", "options", "suffix"), CASES, ids=lambda value: str(value).replace(" ", "")[:60])
def test_wanted_frames_are_those_of_a_full_decode(
    tmp_path: Path, codec: str, options: dict[str, str], suffix: str
) -> None:
    path = encode(tmp_path / f"clip.{suffix}", codec, options)
    expected = every_frame(path)
    assert len(expected) == FRAMES
    rng = np.random.default_rng(0)
    choices = [range(0, FRAMES, 4), range(3, FRAMES, 8), [FRAMES - 1], [0], range(FRAMES)]
    choices += [rng.choice(FRAMES, size=int(rng.integers(1, 9)), replace=False).tolist() for _ in range(20)]
    for number, wanted in enumerate(choices):
        if number % 2:
            forget_videos()
        found = open_video(path).frames(wanted)
        assert found.keys() == set(wanted)
        assert all(np.array_equal(found[index], expected[index]) for index in wanted)


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg4"])
def test_frames_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str) -> None:
    """Or the tests above would compare a full decode with itself."""
    options = {"libx264": {"x264-params": "b-adapt=0:bframes=3"}, "mpeg4": {"bf": "2"}}
    options["libx265"] = {"x265-params": "log-level=none:pools=1:b-adapt=0:bframes=3"}
    path = encode(tmp_path / "clip.mp4", codec, options[codec])
    media = open_video(path)
    assert isinstance(media, VideoFile)
    counted = []
    pick = decode_video._pick

    class Counted:
        """A decoder that counts the frames it gives."""

        def __init__(self, context: av.VideoCodecContext) -> None:
            object.__setattr__(self, "context", context)

        def __getattr__(self, name: str) -> object:
            return getattr(self.context, name)

        def __setattr__(self, name: str, value: object) -> None:
            setattr(self.context, name, value)

        def decode(self, packet: av.Packet | None) -> list[av.VideoFrame]:
            frames = self.context.decode(packet)
            counted.extend(frames)
            return frames

    monkeypatch.setattr(
        decode_video, "_pick", lambda context, *rest, **options: pick(Counted(context), *rest, **options)
    )
    assert media.frames([0, FRAMES - 1]).keys() == {0, FRAMES - 1}
    assert len(counted) < 0.7 * FRAMES


def test_temporal_layers_are_decoded_whole(tmp_path: Path) -> None:
    for layers in (1, 3):
        params = f"log-level=none:pools=1:bframes=4:temporal-layers={layers}"
        path = encode(tmp_path / f"{layers}.mp4", "libx265", {"x265-params": params})
        with av.open(str(path)) as container:
            assert decode_video._can_skip(container.streams.video[0].codec_context) == (layers == 1)


def test_the_first_visit_opens_the_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encode(tmp_path / "clip.mp4", "libx264", {})
    opened = []
    real = av.open

    def counting(*arguments: object, **options: object) -> object:
        opened.append(arguments)
        return real(*arguments, **options)

    monkeypatch.setattr(decode_video.av, "open", counting)
    media = open_video(path)
    media.frames([5])
    assert len(opened) == 1
    media.frames([6])
    assert len(opened) == 2
    monkeypatch.setattr(decode_video, "HELD_BYTES", 10)
    forget_videos()
    assert open_video(path).frames([7]).keys() == {7}
    assert len(opened) == 4


def test_only_the_file_opened_last_is_held(tmp_path: Path) -> None:
    paths = [encode(tmp_path / f"{name}.mp4", "libx264", {}) for name in "ab"]
    media = [open_video(path) for path in paths]
    held = decode_video._listed.held
    assert held is not None and held[0] == paths[1]
    for item, path in zip(media, paths, strict=True):
        assert np.array_equal(item.frames([9])[9], every_frame(path)[9])
    assert decode_video._listed.held is None


def test_a_decoder_that_answers_late_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the quick way misses is decoded without leaving anything out."""
    path = encode(tmp_path / "clip.mp4", "libx264", {})
    expected = every_frame(path)
    pick, ways = decode_video._pick, []

    def forgetful(context: av.VideoCodecContext, *rest: object, careful: bool) -> dict[int, NDArray[np.uint8]]:
        ways.append(careful)
        found: dict[int, NDArray[np.uint8]] = pick(context, *rest, careful=careful)  # type: ignore[arg-type]
        if not careful:
            found.popitem()
        return found

    monkeypatch.setattr(decode_video, "_pick", forgetful)
    found = open_video(path).frames([4, 30])
    assert ways == [False, True]
    assert all(np.array_equal(found[index], expected[index]) for index in (4, 30))
    monkeypatch.setattr(decode_video, "_pick", lambda *_, careful: {})
    with pytest.raises(DataError, match=r"clip\.mp4: cannot decode: 2 of 2 wanted frames are damaged"):
        open_video(path).frames([4, 30])


def test_pixels_are_not_copied(tmp_path: Path) -> None:
    frame = open_video(encode(tmp_path / "clip.mp4", "libx264", {})).frames([3])[3]
    assert (frame.shape, frame.strides[1:]) == ((48, 64, 3), (3, 1))
    assert not frame.flags.owndata


def test_a_replaced_file_is_listed_again(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mp4", "libx264", {})
    assert open_video(path).frame_count == FRAMES
    encode(tmp_path / "longer.mp4", "libx264", {"g": "5"}).replace(path)
    assert open_video(path).frames([FRAMES - 1]).keys() == {FRAMES - 1}
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"clip\.mp4"):
        open_video(path)
