"""RAF-DB: aligned and original images, boxes and points, lists in one file or two."""

from __future__ import annotations

from pathlib import Path

import pytest
from tree_case import put
from trees_static import rafdb

from s4d.data.manifest_io import prepare_manifest
from s4d.datasets import CLASS_NAMES
from s4d.datasets.published import PUBLISHED
from s4d.errors import DataError


def test_classes_count_from_one(tmp_path: Path) -> None:
    rafdb("aligned", base="basic/")(tmp_path)
    rows = prepare_manifest("rafdb", tmp_path, tmp_path / "out.csv").rows
    for split in ("train", "test"):
        assert [row.label for row in rows if row.split == split] == list(CLASS_NAMES["rafdb"])
    assert (rows[0].sample_id, rows[0].path) == ("train_00001", "basic/Image/aligned/train_00001_aligned.jpg")
    assert (rows[0].face_box, rows[0].face_points) == (None, None)


def test_original_images_have_box_and_points(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rafdb("original")(tmp_path)
    (tmp_path / "Annotation/manual/train_00002_manu_attri.txt").unlink()
    rows = prepare_manifest("rafdb", tmp_path, tmp_path / "out.csv").rows
    assert rows[0].face_box == (0, 3, 20, 22)
    assert rows[0].face_points == (5.2, 10.0, 20.0, 10.0, 14.0, 16.0, 8.0, 22.0, 20.0, 22.0)
    assert rows[1].face_points is None
    assert "manual/{}_manu_attri.txt: 1 of 14 images have none" in caplog.text


def test_both_forms_need_a_choice(tmp_path: Path) -> None:
    rafdb("aligned", "original")(tmp_path)
    with pytest.raises(DataError, match=r"several forms of the media \(Image/aligned, Image/original\): .*--media"):
        prepare_manifest("rafdb", tmp_path, tmp_path / "out.csv")
    for form, ending in (("aligned", "_aligned"), ("original", "")):
        manifest = prepare_manifest("rafdb", tmp_path, tmp_path / "out.csv", media=f"Image/{form}")
        assert manifest.rows[0].path == f"Image/{form}/train_00001{ending}.jpg"
        assert (manifest.rows[0].face_box is None) == (form == "aligned")


def test_two_lists(tmp_path: Path) -> None:
    rafdb("aligned", names=("train_label.txt", "test_label.txt"))(tmp_path)
    rows = prepare_manifest("rafdb", tmp_path, tmp_path / "out.csv").rows
    assert [row.split for row in rows] == ["train"] * 7 + ["test"] * 7


LIST = "EmoLabel/list_patition_label.txt"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (LIST, "train_00001.jpg 0\n", "line 1: field 'label': unknown label '0', expected 1 to 7"),
        (LIST, "train_00001.jpg 8\n", "line 1: field 'label': unknown label '8', expected 1 to 7"),
        (LIST, "val_00001.jpg 1\n", "line 1: field 'image': 'val_00001.jpg' begins with neither train_ nor test_"),
        (LIST, "train_00001.jpg 1\ntrain_00001.jpg 1\n", "line 2: field 'image': 'train_00001.jpg' is listed twice"),
        (
            "Annotation/boundingbox/train_00001_boundingbox.txt",
            "1 2 3\n",
            "line 1: expected 4 numbers in 1 lines, got 3",
        ),
        ("Annotation/boundingbox/train_00001_boundingbox.txt", "1 2 3 x\n", "line 1: could not convert"),
        ("Annotation/boundingbox/train_00001_boundingbox.txt", "1 2 3 nan\n", "line 1: a coordinate is not finite"),
        ("Annotation/manual/train_00001_manu_attri.txt", "1 2\n", "line 1: expected 10 numbers in 5 lines, got 2"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, file: str, text: str, message: str) -> None:
    rafdb("original")(tmp_path)
    put(tmp_path / file, text)
    with pytest.raises(DataError) as caught:
        prepare_manifest("rafdb", tmp_path, tmp_path / "out.csv")
    assert f"{tmp_path / file}: {message}" in str(caught.value)


def test_published_counts() -> None:
    assert [(count.split, count.total) for count in PUBLISHED["rafdb"]] == [("train", 12_271), ("test", 3_068)]
    assert PUBLISHED["rafdb"][0].classes["happiness"] == 4772
