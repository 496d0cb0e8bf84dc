"""Windows over time, and the one pass over a clip's frames that feeds them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from s4d.data.upright import UPRIGHT
from s4d.errors import UsageError
from s4d.inference.clip import Clip, clip_of
from s4d.inference.model import S4D, window_spans
from s4d.inference.prediction import plan_windows
from s4d.inference.views import stream_views


@pytest.mark.parametrize(
    ("frames", "length", "hop", "expected"),
    [
        (1, 8, 4, [(0, 0)]),
        (8, 8, 4, [(0, 7)]),
        (9, 8, 4, [(0, 7), (1, 8)]),
        (16, 8, 4, [(0, 7), (4, 11), (8, 15)]),
        (18, 8, 4, [(0, 7), (4, 11), (8, 15), (10, 17)]),
        (5, 1, 2, [(0, 0), (2, 2), (4, 4)]),
        (20, 4, 9, [(0, 3), (9, 12), (16, 19)]),
    ],
)
def test_windows_reach_the_end_and_are_of_one_length(
    frames: int, length: int, hop: int, expected: list[tuple[int, int]]
) -> None:
    assert plan_windows(frames, length, hop) == expected


def test_spans_in_seconds(model: S4D) -> None:
    clip = clip_of(np.zeros((100, 8, 8, 3), np.uint8), fps=10.0)
    clips, faces = model.heads["clips"].recipe, model.heads["faces"].recipe
    assert window_spans(clip, clips, None, None)[:2] == [(0, 7), (4, 11)]
    assert window_spans(clip, clips, 2.0, None)[:2] == [(0, 19), (10, 29)]
    assert window_spans(clip, clips, 2.0, 0.5)[:2] == [(0, 19), (5, 24)]
    assert window_spans(clip, clips, 0.01, 0.01)[:2] == [(0, 0), (1, 1)]
    assert window_spans(clip, faces, None, None)[:3] == [(0, 0), (5, 5), (10, 10)]
    for values in ((0.0, None), (None, -1.0), (float("nan"), None), (float("inf"), None)):
        with pytest.raises(UsageError, match=r"expected seconds above 0"):
            window_spans(clip, clips, *values)
    with pytest.raises(UsageError, match="give fps"):
        window_spans(clip_of(np.zeros((9, 8, 8, 3), np.uint8)), clips, 1.0, None)


def test_a_window_is_judged_as_a_clip_of_its_own(model: S4D, picture_of: Callable[..., np.ndarray]) -> None:
    """With one temporal view: the windows of the model's own recipe have one each."""
    frames = np.stack([picture_of(number) for number in range(30)])
    found = model.predict(frames, fps=10.0)
    assert [(window.first, window.last) for window in found.windows[:2]] == [(0, 7), (4, 11)]
    assert [(window.start, window.end) for window in found.windows[:2]] == [(0.0, 0.8), (0.4, 1.2)]
    assert found.windows[-1].last == 29 and found.windows[-1].end == pytest.approx(3.0)
    spatial = model.heads["clips"].recipe.spatial_views
    for window in found.windows[:3]:
        alone = model.predict(frames[window.first : window.last + 1])
        assert alone.views.shape[0] == 3 * spatial
        # A clip of exactly one window has no room for different temporal views but their phase; the middle one is ours.
        np.testing.assert_allclose(window.probabilities, alone.views[spatial : 2 * spatial].mean(0), atol=1e-5)
    assert found.over_time == pytest.approx(np.mean([window.probabilities for window in found.windows], axis=0))


class Counting:
    """Many frames, made when they are asked for; knows how many are alive."""

    frame_count = 5000
    size = (40, 30)

    def __init__(self) -> None:
        self.alive = 0
        self.most = 0
        self.asked: list[int] = []

    def frames(self, indices: Iterable[int], scale: float = 1.0) -> dict[int, np.ndarray]:
        return {index: self._made(index) for index in indices}

    def _made(self, index: int) -> np.ndarray:
        self.asked.append(index)
        pixels = np.full((30, 40, 3), index % 251, np.uint8)
        self.alive += 1
        self.most = max(self.most, self.alive)
        weakref.finalize(pixels, self._gone)
        return pixels

    def _gone(self) -> None:
        self.alive -= 1


def long_clip(media: Counting) -> Clip:
    return Clip(name="film", kind="frames", media=media, orientation=UPRIGHT, times=None, fps=25.0)


def test_frames_are_decoded_once_and_let_go_of(model: S4D) -> None:
    media = Counting()
    clip = long_clip(media)
    recipe = model.heads["clips"].recipe
    spans = window_spans(clip, recipe, None, None)
    prediction = model.predict_clip(clip, model.heads["clips"], window=None, hop=20.0)
    assert media.asked == sorted(set(media.asked)) and media.most <= 2
    assert len(prediction.windows) == 11 and len(spans) > 1000


def test_few_views_are_unfinished_at_a_time(model: S4D) -> None:
    """A view is handed over with its last frame, not at the end of the film."""
    media = Counting()
    clip = long_clip(media)
    recipe = model.heads["clips"].recipe
    draws = [
        draw
        for start in range(0, 4000, 8)
        for draw in recipe.draws("a", recipe.views[:1], frame_count=8, size=clip.size)
        for draw in [draw.__class__(**{**_fields(draw), "frame_indices": tuple(i + start for i in draw.frame_indices)})]
    ]
    handed: Iterator[tuple[int, np.ndarray]] = stream_views(clip, draws, 32, small_decode=False)
    place, pixels = next(handed)
    assert place == 0 and len(media.asked) == 4 and pixels.shape == (4, 32, 32, 3)
    assert [int(frame.mean()) for frame in pixels] == list(draws[0].frame_indices)
    assert [place for place, _ in handed] == list(range(1, 500))


def _fields(record: object) -> dict[str, object]:
    return {name: getattr(record, name) for name in type(record).__dataclass_fields__}  # type: ignore[attr-defined]


def test_times_of_a_video_with_frames_of_different_lengths(
    model: S4D, tmp_path: Path, video_of: Callable[..., Path], picture_of: Callable[..., np.ndarray]
) -> None:
    frames = [picture_of(number) for number in range(12)]
    path = video_of(tmp_path / "odd.mp4", frames, times=[0, 1, 2, 3, 4, 5, 16, 17, 18, 19, 20, 21])
    found = model.predict(path)
    assert found.fps == pytest.approx(11 / (21 / 25), rel=1e-3)
    assert [(window.first, window.last) for window in found.windows] == [(0, 7), (4, 11)]
    assert found.windows[0].end == pytest.approx(18 / 25, abs=1e-3)
    assert found.windows[1].start == pytest.approx(4 / 25, abs=1e-3)
