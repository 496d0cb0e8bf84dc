"""Scene cuts are found where they are, and nothing else is taken for one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from s4d.data.scan.perceptual import small_picture
from s4d.data.scan.shots import ShotWatcher

Scene = Callable[..., list[np.ndarray]]


def cuts_of(frames: list[np.ndarray]) -> tuple[int, ...]:
    watcher = ShotWatcher()
    for frame in frames:
        watcher.add(small_picture(frame))
    return watcher.cuts()


@pytest.mark.parametrize("seed", range(8))
def test_every_joint_of_two_scenes_is_a_cut(make_scene: Scene, seed: int) -> None:
    frames = make_scene(seed, 15) + make_scene(seed + 100, 6) + make_scene(seed + 200, 11)
    assert cuts_of(frames) == (15, 21)


@pytest.mark.parametrize("seed", range(8))
def test_a_moving_scene_has_none(make_scene: Scene, seed: int) -> None:
    assert cuts_of(make_scene(seed, 40)) == ()


def test_a_cut_at_the_last_frame_and_in_the_second(make_scene: Scene) -> None:
    assert cuts_of(make_scene(1, 10) + make_scene(2, 1)) == (10,)
    assert cuts_of(make_scene(1, 1) + make_scene(2, 10)) == (1,)


def test_flashes_and_single_damaged_frames_are_no_cuts(make_scene: Scene) -> None:
    frames = make_scene(1, 30)
    frames[10] = np.full_like(frames[10], 255)
    frames[20] = make_scene(7, 1)[0]
    assert cuts_of(frames) == ()


def test_a_camera_that_never_rests_has_none(make_scene: Scene) -> None:
    assert cuts_of([make_scene(seed, 1)[0] for seed in range(20)]) == ()


def test_a_fade_has_none(make_scene: Scene) -> None:
    first, second = make_scene(1, 1)[0].astype(float), make_scene(2, 1)[0].astype(float)
    shares = np.linspace(0, 1, 25)
    assert cuts_of([((1 - share) * first + share * second).astype(np.uint8) for share in shares]) == ()


def test_a_single_frame_has_none(make_scene: Scene) -> None:
    assert cuts_of(make_scene(1, 1)) == ()
