"""CAER and CAER-S: emotions by folder in any spelling, and lists of face boxes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from tree_case import picture, put
from trees_static import caer, caer_s

from s4d.data.manifest_io import prepare_manifest
from s4d.datasets import CLASS_NAMES
from s4d.errors import DataError, UsageError


def test_caer(tmp_path: Path) -> None:
    caer(tmp_path)
    rows = prepare_manifest("caer", tmp_path, tmp_path / "out.csv").rows
    assert Counter((row.split, row.label) for row in rows) == {
        (split, label): 1 for split in ("train", "val", "test") for label in CLASS_NAMES["caer"]
    }
    assert (rows[3].sample_id, rows[3].path) == ("train/Happy/0001", "CAER/train/Happy/0001.avi")
    inner = prepare_manifest("caer", tmp_path / "CAER", tmp_path / "out.csv").rows
    assert [row.sample_id for row in inner] == [row.sample_id for row in rows]
    assert inner[3].path == "train/Happy/0001.avi"


def test_spellings_of_caer_s(tmp_path: Path) -> None:
    caer_s(tmp_path)
    (tmp_path / "test").rename(tmp_path / "Test")
    rows = prepare_manifest("caer_s", tmp_path, tmp_path / "out.csv").rows
    assert Counter((row.split, row.label) for row in rows) == {
        (split, label): 2 for split in ("train", "test") for label in CLASS_NAMES["caer_s"]
    }
    assert {row.sample_id for row in rows if row.label == "anger"} == {
        "train/Anger/0001",
        "train/Anger/0002",
        "Test/Angry/0001",
        "Test/Angry/0002",
    }


def test_face_boxes_of_caer_s(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caer_s(tmp_path)
    put(tmp_path / "train.txt", "Angry/0001.png,0,1,2,30,31\n")
    put(tmp_path / "test.txt", "test/Happy/0002.png,3,4,5,6,7\ntest/fear/0001.png,2,0,0,9,9\n")
    rows = {row.sample_id: row for row in prepare_manifest("caer_s", tmp_path, tmp_path / "out.csv").rows}
    assert rows["train/Anger/0001"].face_box == (1, 2, 30, 31)
    assert rows["test/Happy/0002"].face_box == (4, 5, 6, 7)
    assert rows["test/FEAR/0001"].face_box == (0, 0, 9, 9)
    assert sum(row.face_box is not None for row in rows.values()) == 3
    assert "train.txt: 13 of 14 images have no face box" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Angry/0001.png,0,1,2,30\n", "line 1: expected 6 fields (path number left top right bottom), got 5"),
        ("Angry/0001.png,0,1,2,x,31\n", "line 1: field 'right': expected pixels, got 'x'"),
        ("Angry/0001.png,0,9,2,9,31\n", "line 1: field 'right': the box [9, 2, 9, 31] has no extent"),
        ("Angry/0009.png,0,1,2,3,4\n", "line 1: field 'path': 'Angry/0009.png' does not exist in the train part"),
        ("0001.png,0,1,2,3,4\n", "line 1: field 'path': '0001.png' does not exist in the train part"),
        ("/Angry/0001.png,0,1,2,3,4\n", "line 1: field 'path': '/Angry/0001.png' is an absolute path"),
        (
            "Anger/0001.png,0,1,2,3,4\nAngry/0001.png,0,1,2,3,4\n",
            "line 2: field 'path': 'Angry/0001.png' is listed twice",
        ),
    ],
)
def test_wrong_boxes_are_named(tmp_path: Path, text: str, message: str) -> None:
    caer_s(tmp_path)
    put(tmp_path / "train.txt", text)
    with pytest.raises(DataError) as caught:
        prepare_manifest("caer_s", tmp_path, tmp_path / "out.csv")
    assert f"train.txt: {message}" in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "test").rename(root / "tests"), "no folder test"),
        (lambda root: (root / "train").rename(root / "trains"), "no folder train"),
        (lambda root: (root / "train/Fear").rename(root / "train/Bored"), "train/Bored: unknown label 'Bored'"),
        (
            lambda root: put(root / "train/Angry/1.png", picture(1, ".png")),
            "two folders of class anger: Anger and Angry",
        ),
        (lambda root: put(root / "Train/x", ""), "two folders of the train part: Train and train"),
    ],
)
def test_wrong_folders_are_named(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    caer_s(tmp_path)
    damage(tmp_path)
    with pytest.raises(DataError) as caught:
        prepare_manifest("caer_s", tmp_path, tmp_path / "out.csv")
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_what_is_left_out_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caer_s(tmp_path)
    (tmp_path / "test/Sad").rename(tmp_path / "sad")
    put(tmp_path / "train/Fear/Thumbs.db", "")
    prepare_manifest("caer_s", tmp_path, tmp_path / "out.csv")
    assert f"{tmp_path / 'test/sadness'}: no media of class sadness" in caplog.text
    assert f"{tmp_path / 'train/Fear'}: 1 other files left out" in caplog.text


def test_media_names_the_folder_of_the_parts(tmp_path: Path) -> None:
    caer_s(tmp_path / "a/b")
    rows = prepare_manifest("caer_s", tmp_path, tmp_path / "out.csv", media="a/b").rows
    assert (rows[0].sample_id, rows[0].path) == ("train/Anger/0001", "a/b/train/Anger/0001.png")
    assert prepare_manifest("caer_s", tmp_path / "a/b", tmp_path / "out.csv", media=".").rows[0].path == (
        "train/Anger/0001.png"
    )
    for wrong in ("c", "../a/b", str(tmp_path / "a/b")):
        with pytest.raises(UsageError, match=r"--media .*: no such folder below"):
            prepare_manifest("caer_s", tmp_path / "a", tmp_path / "out.csv", media=wrong)
