"""pictures.npz: written, read, damaged; and drawn into a report."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s4d.analysis.pictures.drawing.experts import shown_layers
from s4d.analysis.pictures.drawing.parts import picture_parts
from s4d.analysis.pictures.drawing.tiles import OVERLAY, overlaid, palette, slice_frames
from s4d.analysis.pictures.record import FIELDS, FeatureMap, Pictures, SourcePictures, read_pictures, write_pictures
from s4d.analysis.report import write_report
from s4d.errors import DataError


def test_what_is_written_is_read(made_up: Pictures, tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures.npz", made_up)
    found = read_pictures(tmp_path / "pictures.npz")
    assert found is not None and found.checkpoint == made_up.checkpoint
    for mine, theirs in zip(found.sources, made_up.sources, strict=True):
        assert mine.drawn == theirs.drawn and mine.layers == theirs.layers and mine.unreadable == 1
        assert all(np.array_equal(getattr(mine, name), getattr(theirs, name)) for name in FIELDS)
    assert found.features is not None and made_up.features is not None
    assert found.features.numbers == made_up.features.numbers
    assert np.array_equal(found.features.points, made_up.features.points)
    assert [path.name for path in tmp_path.iterdir()] == ["pictures.npz"]


def test_a_run_without_pictures_has_none(tmp_path: Path) -> None:
    assert read_pictures(tmp_path / "pictures.npz") is None


def changed(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    change(arrays)
    np.savez(path, **arrays)


def edit_index(arrays: dict[str, Any], key: str) -> None:
    index = json.loads(str(arrays["index"]))
    del index["sources"]["clips"][key]
    arrays["index"] = np.array(json.dumps(index))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda arrays: arrays.pop("index"), "'index' is missing"),
        (lambda arrays: arrays.pop("clips/relevance"), "'clips/relevance' is missing"),
        (lambda arrays: edit_index(arrays, "classes"), "'classes' is missing"),
        (lambda arrays: arrays.update(index=np.array("{")), "Expecting"),
        (lambda arrays: arrays.update(index=np.array("[]")), "list indices"),
        (
            lambda arrays: arrays.update({"clips/frames": arrays["clips/frames"][:, :3]}),
            "clips/frames: (2, 3, 16, 16, 3) cannot be cut",
        ),
        (
            lambda arrays: arrays.update({"clips/experts": arrays["clips/experts"] + np.int16(4)}),
            "clips/experts: expected numbers of 4 experts",
        ),
        (lambda arrays: arrays.update({"map/labels": arrays["map/labels"] + 9}), "map: labels"),
        (lambda arrays: arrays.update({"map/points": arrays["map/labels"]}), "map/points: unexpected type int64"),
    ],
)
def test_damage_is_one_line(
    made_up: Pictures, tmp_path: Path, change: Callable[[dict[str, Any]], None], expected: str
) -> None:
    path = tmp_path / "pictures.npz"
    write_pictures(path, made_up)
    changed(path, change)
    with pytest.raises(DataError, match=r"pictures\.npz: ") as caught:
        read_pictures(path)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_bytes_that_are_no_archive_are_one_line(made_up: Pictures, tmp_path: Path) -> None:
    path = tmp_path / "pictures.npz"
    write_pictures(path, made_up)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole[:200] + bytes(len(whole) - 200)):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"pictures\.npz: "):
            read_pictures(path)


def test_report_draws_them_with_words_for_each(made_up: Pictures, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("name: run\ntask: finetune\n")
    plain = write_report(run)[0].read_text(encoding="utf-8")
    assert "s4d analyze pictures" in plain and "Experts on faces" not in plain
    write_pictures(run / "pictures.npz", made_up)
    path, numbers = write_report(run)
    page = path.read_text(encoding="utf-8")
    for title in ("Features of test samples", "Where attention rests", "Experts on faces", "Classes over time"):
        assert title in page
    assert "s4d analyze pictures" not in page
    alts = re.findall(r'<img [^>]*alt="([^"]*)"', page)
    # One map, a rollout for each source, two of the experts for each, one over time.
    assert len(alts) == 1 + 2 + 4 + 1 and all(len(alt) > 40 for alt in alts)
    assert numbers["runs"]["run"]["features"]["same_class"] == 0.6  # type: ignore[index]


def test_a_model_without_experts_and_stills_alone(source_of: Callable[..., SourcePictures]) -> None:
    stills = source_of("image", layers=(), drawn=1)
    parts = picture_parts(Pictures(checkpoint="c", sources=(stills,), features=None))
    assert list(parts) == ["Where attention rests"]


def test_a_map_of_one_modality_speaks_of_one(features_of: Callable[..., FeatureMap]) -> None:
    features = features_of()
    numbers = {name: value for name, value in features.numbers.items() if "across" not in name and "other" not in name}
    alone = replace(features, modalities=np.ones_like(features.modalities), numbers=numbers)
    alt = picture_parts(Pictures(checkpoint="c", sources=(), features=alone))["Features of test samples"][0].alt
    assert "20 videos" in alt and "image" not in alt and "other modality" not in alt


def test_many_layers_are_thinned_and_it_is_said(source_of: Callable[..., SourcePictures]) -> None:
    assert shown_layers(3) == [0, 1, 2]
    assert shown_layers(12) == [0, 2, 4, 7, 9, 11]
    deep = source_of("video", layers=tuple(range(12, 24)))
    faces, places = picture_parts(Pictures(checkpoint="c", sources=(deep,), features=None))["Experts on faces"]
    assert "6 of 12 MoAE layers" in faces.caption and "block 23" in places.alt


def test_patches_are_coloured_where_they_lie(source_of: Callable[..., SourcePictures]) -> None:
    source = source_of("video")
    frames = slice_frames(source)
    assert np.array_equal(frames, source.frames[:, [0, 2]] / 255)
    colors = np.zeros((2, 2, 2, 2, 3))
    colors[1, 0, 0, 1] = (1, 0, 0)
    mixed = overlaid(frames, colors)
    red = mixed[..., 0] - mixed[..., 1]
    assert np.allclose(red[1, 0, :8, 8:], OVERLAY)
    red[1, 0, :8, 8:] = 0
    assert np.allclose(red, 0)


def test_every_expert_has_its_own_colour() -> None:
    for count in (1, 8, 11, 32):
        assert len(set(palette(count))) == count


def test_shapes_that_contradict_each_other_are_refused(source_of: Callable[..., SourcePictures]) -> None:
    with pytest.raises(ValueError, match="slice_probabilities: expected"):
        replace(source_of(), classes=("a", "b"), probabilities=np.zeros((2, 2), np.float32))
