"""Manifests: both formats say the same, a hand-written csv is enough, and every mistake is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from s4d.data.manifest import ManifestRow
from s4d.data.manifest_io import Manifest, fingerprint, read_manifest, write_manifest
from s4d.errors import DataError, UsageError

ROWS = (
    ManifestRow(
        sample_id='a, "b"',
        path="x/ä 1.jpg",
        kind="image",
        dataset="made",
        split="train",
        label="glad",
        fold=2,
        identity="p1",
        frame_count=1,
        fps=29.97,
        face_box=(1, 2, 30, 40),
    ),
    ManifestRow(sample_id="00012", path="x/00012", kind="frames", dataset="made", split="test"),
)
CLASSES = ("sad", "glad")


def manifest(root: Path) -> Manifest:
    return Manifest(rows=ROWS, root=root, dataset="made", classes=CLASSES, fingerprint=fingerprint(ROWS, CLASSES))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_manifest_survives_the_disk(tmp_path: Path, suffix: str) -> None:
    write_manifest(manifest(tmp_path / "media"), tmp_path / f"m.{suffix}")
    assert read_manifest(tmp_path / f"m.{suffix}") == manifest(tmp_path / "media")
    assert [path.name for path in tmp_path.iterdir()] == [f"m.{suffix}"]


def test_the_fingerprint_follows_the_content() -> None:
    assert fingerprint(ROWS, CLASSES) != fingerprint(ROWS[:1], CLASSES)
    assert fingerprint(ROWS, CLASSES) != fingerprint(ROWS, CLASSES[::-1])


def test_a_hand_written_csv_needs_four_columns(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("path,label,split,kind\nb.mp4,glad,train,video\na.mp4,,test,video\nc.mp4,bored,train,video\n")
    read = read_manifest(path)
    assert (read.dataset, read.root, read.classes) == ("mine", tmp_path, ("bored", "glad"))
    assert [(row.sample_id, row.label, row.split) for row in read.rows] == [
        ("b.mp4", "glad", "train"),
        ("a.mp4", None, "test"),
        ("c.mp4", "bored", "train"),
    ]


def test_header_lines_give_root_and_class_order(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("# root: media\n# classes: glad, bored\npath,label,split,kind\nb.mp4,glad,train,video\n")
    assert (read_manifest(path).root, read_manifest(path).classes) == (tmp_path / "media", ("glad", "bored"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,lable,split,kind\n", "unknown column 'lable', did you mean 'label'"),
        ("path,label,split\n", "column 'kind' is missing"),
        ("path,label,split,kind,kind\n", "named twice"),
        ("path,label,split,kind\n", "holds no rows"),
        ("", "column 'path' is missing"),
        ("path,label,split,kind\na,glad,train,photo\n", "row 2: kind must be image, frames or video, got 'photo'"),
        ("path,label,split,kind\na,glad,,image\n", "row 2: field 'split' is empty"),
        ("path,label,split,kind\na,glad,train\n", "line 2: expected 4 fields, got 3"),
        ("path,label,split,kind,fold\na,glad,train,image,one\n", "row 2: field 'fold': cannot read 'one'"),
        ("path,label,split,kind,face_box\na,glad,train,image,1 2\n", "row 2: field 'face_box': cannot read"),
        ("path,label,split,kind\na,glad,train,image\na,sad,train,image\n", "row 2: sample_id 'a' occurs twice"),
        ("# classes: sad\npath,label,split,kind\na,glad,train,image\n", "label 'glad' is not one of the classes sad"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=r"mine\.csv: ") as caught:
        read_manifest(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_clip_may_be_in_several_folds(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("path,label,split,kind,fold\na,glad,train,image,1\na,glad,test,image,2\n")
    assert [row.fold for row in read_manifest(path).rows] == [1, 2]


def test_files_that_are_no_manifests_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 is not enough")
    with pytest.raises(DataError, match=r"bad\.parquet: not a readable Parquet file"):
        read_manifest(tmp_path / "bad.parquet")
    with pytest.raises(DataError, match=r"none\.csv: no such manifest"):
        read_manifest(tmp_path / "none.csv")
    with pytest.raises(UsageError, match=r"a manifest ends in \.parquet or \.csv"):
        write_manifest(manifest(tmp_path), tmp_path / "m.json")
