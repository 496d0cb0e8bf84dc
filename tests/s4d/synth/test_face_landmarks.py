"""The points that come with drawn faces, against the drawing's own ray cast and the files of a data set."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from s4d.synth import synthesize
from s4d.synth.action_units import COLUMN
from s4d.synth.canvas import Canvas
from s4d.synth.landmarks import POINT_COLUMNS
from s4d.synth.recipe import CLIP_FRAMES, PRETRAIN_FRAMES, Plan, stage_image
from s4d.synth.streams import stream

PLAN = Plan(clips=10, images=10, identities=5, pretrain_clips=2, seed=3, size=96)


@pytest.mark.parametrize("index", range(6))
def test_points_lie_where_the_ray_cast_finds_them(index: int) -> None:
    take = stage_image(PLAN, index, stream(PLAN.seed, "image", index))
    identity, face = take.identity, take.faces[0]
    jaw = 0.5 * float((identity.rest + face.units)[:, COLUMN[26]].sum())
    canvas = Canvas(identity, face.pose, PLAN.size, min(max(jaw, 0.0), 1.2))
    places = [
        (-identity.eye_spacing, identity.eye_height),
        (identity.eye_spacing, identity.eye_height),
        (0.0, identity.nose_length),
        (-identity.mouth_width, identity.mouth_height),
        (identity.mouth_width, identity.mouth_height),
    ]
    inside = 0
    for (x, y), (u, v) in zip(np.reshape(take.points()[0], (5, 2)), places, strict=True):
        if 0 <= x < PLAN.size and 0 <= y < PLAN.size:
            inside += 1
            # A pixel is 2 / 96 of the frame, and a little more of the face.
            assert canvas.u[int(y), int(x)] == pytest.approx(u, abs=0.03)
            assert canvas.v[int(y), int(x)] == pytest.approx(v, abs=0.03)
    assert inside >= 3


def test_every_layout_comes_with_a_table_of_points(tmp_path: Path) -> None:
    synthesize(tmp_path, clips=7, images=7, identities=5, seed=0, size=32, pretrain_clips=2, workers=1)
    frames = {"affectnet": 1, "dfew": CLIP_FRAMES, "voxceleb2": PRETRAIN_FRAMES}
    for name, count in frames.items():
        with (tmp_path / name / "faces.csv").open(encoding="utf-8") as stream_:
            rows = list(csv.DictReader(stream_))
        samples = list(dict.fromkeys(row["sample"] for row in rows))
        assert len(samples) == (2 if name == "voxceleb2" else 7)
        assert [int(row["frame"]) for row in rows] == list(range(count)) * len(samples)
        assert all(float(row["left_eye_x"]) < float(row["right_eye_x"]) for row in rows)
        assert set(rows[0]) == {"sample", "frame", *POINT_COLUMNS}
        medium = tmp_path / name / ("Clip/jpg_256" if name == "dfew" else ".") / samples[0]
        assert medium.exists()
