"""Copies of a picture hash alike, other pictures do not, and banded lookup finds what comparing all pairs finds."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from s4d.data.scan.perceptual import perceptual_hash, small_picture
from s4d.data.validate.similar import MAX_DISTANCE, distance, similar_pairs, unpack
from s4d.synth.recipe import Plan, render_image

COUNT = 30


@pytest.fixture(scope="module")
def faces() -> list[np.ndarray]:
    plan = Plan(clips=0, images=COUNT, identities=10, pretrain_clips=0, seed=5, size=112)
    return [render_image(plan, index)[0] for index in range(COUNT)]


def hashes_of(pictures: list[np.ndarray]) -> np.ndarray:
    return unpack([perceptual_hash(small_picture(picture)) for picture in pictures])


def saved(picture: np.ndarray, quality: int, side: int | None = None) -> np.ndarray:
    image = Image.fromarray(picture)
    if side is not None:
        image = image.resize((side, side), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


@pytest.mark.parametrize(
    "change",
    [
        lambda picture: saved(picture, 90),
        lambda picture: saved(picture, 30),
        lambda picture: saved(picture, 80, 224),
        lambda picture: (picture * 0.9).astype(np.uint8),
    ],
    ids=["quality 90", "quality 30", "enlarged", "darker"],
)
def test_a_changed_copy_hashes_alike(faces: list[np.ndarray], change: Callable[[np.ndarray], np.ndarray]) -> None:
    assert distance(hashes_of(faces), hashes_of([change(picture) for picture in faces])).max() <= MAX_DISTANCE


def test_other_faces_hash_apart(faces: list[np.ndarray]) -> None:
    hashes = hashes_of(faces)
    apart = distance(hashes[:, None], hashes[None]) + 1000 * np.eye(COUNT, dtype=np.int64)
    assert apart.min() > 2 * MAX_DISTANCE


def test_flat_pictures_have_no_hash() -> None:
    assert perceptual_hash(np.full((64, 64, 3), 90, dtype=np.uint8)) == ""


def test_banded_lookup_finds_what_all_pairs_have() -> None:
    rng = np.random.default_rng(2)
    base = rng.integers(0, 256, (200, 32), dtype=np.uint8)
    copies = base.copy()
    flips = rng.integers(0, 15, 200)
    for copy, count in zip(copies, flips, strict=True):
        for bit in rng.choice(256, count, replace=False):
            copy[bit // 8] ^= 1 << bit % 8
    hashes, groups = np.concatenate([base, copies]), np.repeat([0, 1], 200)
    everything = distance(hashes[:, None], hashes[None]) <= MAX_DISTANCE
    expected = [(i, j) for i, j in zip(*np.nonzero(np.triu(everything, 1)), strict=True) if groups[i] != groups[j]]
    assert similar_pairs(hashes, groups) == expected
    assert len(expected) == 200
    assert similar_pairs(hashes, np.zeros(400, dtype=np.int64)) == []
