"""Readers on small trees in the real layouts, and one clear line for every way a tree can be wrong."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from s4d.data.manifest_io import Manifest, prepare_manifest
from s4d.datasets import CLASS_NAMES
from s4d.errors import DataError, UsageError, UserError

SPLIT_FOLDER = "EmoLabel_DataSplit/{}(single-labeled)"


def put_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)


def put_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def affectnet(tmp_path: Path) -> Path:
    root = tmp_path / "affectnet"
    for split, count in (("train", 8), ("test", 7)):
        lines = []
        for i in range(count):
            name = f"{i}/{split} {i}.jpg"
            put_image(root / "Manually_Annotated_Images" / name)
            lines.append(f"{name} {i % 7}\n")
        put_text(root / f"{split}_affectnet7.txt", "".join(lines))
    return root


@pytest.fixture
def dfew(tmp_path: Path) -> Path:
    root = tmp_path / "dfew"
    for i in range(1, 11):
        for frame in range(1, 3 + i):
            put_image(root / f"Clip/jpg_256/{i:05d}/{frame}.jpg")
    for fold in (1, 2):
        for split, ids in (("train", range(1, 9)), ("test", range(9, 11))):
            rows = "".join(f"{i:05d},{(i + fold) % 7}\n" for i in ids)
            put_text(root / SPLIT_FOLDER.format(split) / f"{split}_set_{fold}.csv", "video_name,label\n" + rows)
    return root


@pytest.fixture
def voxceleb2(tmp_path: Path) -> Path:
    root = tmp_path / "voxceleb2"
    for name in ("dev/mp4/id00012/abc/00001.mp4", "dev/mp4/id00012/abc/00002.mp4", "test/mp4/id00017/x/00001.mp4"):
        put_text(root / name, "stand-in")
    put_text(root / "dev/mp4/id00012/abc/notes.txt", "")
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "folder"
    for split in ("train", "test"):
        for label in ("glad", "sad"):
            put_image(root / split / label / "a.png")
            put_text(root / split / label / "b.mp4", "stand-in")
            put_image(root / split / label / "c/10.jpg")
    return root


def rows_of(dataset: str, root: Path, tmp_path: Path, fold: int | None = None) -> Manifest:
    return prepare_manifest(dataset, root, tmp_path / "out.csv", fold)


def test_affectnet(affectnet: Path, tmp_path: Path) -> None:
    manifest = rows_of("affectnet", affectnet, tmp_path)
    assert Counter(row.split for row in manifest.rows) == {"train": 8, "test": 7}
    assert [row.label for row in manifest.rows[:7]] == list(CLASS_NAMES["affectnet"])
    assert manifest.rows[0].path == "Manually_Annotated_Images/0/train 0.jpg"
    assert manifest.rows[0].identity is None


def test_identities_beside_a_tree_are_taken(affectnet: Path, dfew: Path, tmp_path: Path) -> None:
    put_text(affectnet / "identities.csv", "path,identity\nManually_Annotated_Images/0/train 0.jpg,anna\n")
    put_text(dfew / "identities.csv", "sample_id,identity\n00009,bert\n")
    assert rows_of("affectnet", affectnet, tmp_path).rows[0].identity == "anna"
    people = {row.sample_id: row.identity for row in rows_of("dfew", dfew, tmp_path).rows}
    assert (people["00009"], people["00001"]) == ("bert", None)


def test_voxceleb2(voxceleb2: Path, tmp_path: Path) -> None:
    rows = rows_of("voxceleb2", voxceleb2, tmp_path).rows
    assert [(row.sample_id, row.split, row.identity) for row in rows] == [
        ("id00012/abc/00001", "train", "id00012"),
        ("id00012/abc/00002", "train", "id00012"),
        ("id00017/x/00001", "test", "id00017"),
    ]


def test_dfew_folds(dfew: Path, tmp_path: Path) -> None:
    manifest = rows_of("dfew", dfew, tmp_path)
    assert Counter((row.fold, row.split) for row in manifest.rows) == {
        (1, "train"): 8,
        (1, "test"): 2,
        (2, "train"): 8,
        (2, "test"): 2,
    }
    second = rows_of("dfew", dfew, tmp_path, fold=2).rows
    assert {row.fold for row in second} == {2}
    assert (second[0].sample_id, second[0].label, second[0].frame_count) == ("00001", CLASS_NAMES["dfew"][3], 3)


def native(root: Path) -> None:
    """Rewrite a tree into DFEW's own form: set_K.csv, labels from 1, ids without leading zeros."""
    for path in sorted(root.glob("EmoLabel_DataSplit/*/*.csv")):
        header, *rows = path.read_text().splitlines()
        pairs = [row.split(",") for row in rows]
        text = "".join(f"{int(name)},{int(label) + 1}\n" for name, label in pairs)
        path.unlink()
        put_text(path.with_name(f"set_{path.stem[-1]}.csv"), f"{header}\n{text}")


def test_both_forms_of_dfew_say_the_same(dfew: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        released = rows_of("dfew", dfew, tmp_path)
        native(dfew)
        original = rows_of("dfew", dfew, tmp_path)
    assert original == released
    said = [message.rpartition(": ")[2] for message in caplog.messages if "labels" in message]
    assert said == ["labels count from 0", "labels count from 1"]


def test_dfew_ids_with_and_without_zeros_name_the_same_clip(dfew: Path, tmp_path: Path) -> None:
    expected = rows_of("dfew", dfew, tmp_path)
    for clip in sorted((dfew / "Clip/jpg_256").iterdir()):
        clip.rename(clip.with_name(str(int(clip.name))))
    assert [row.label for row in rows_of("dfew", dfew, tmp_path).rows] == [row.label for row in expected.rows]


def test_folder(folder: Path, tmp_path: Path) -> None:
    rows = rows_of("folder", folder, tmp_path).rows
    assert Counter((row.split, row.label, row.kind) for row in rows) == {
        (split, label, kind): 1
        for split in ("train", "test")
        for label in ("glad", "sad")
        for kind in ("image", "video", "frames")
    }


def test_folder_without_splits_or_labels(tmp_path: Path) -> None:
    for name in ("mine/glad/2.jpg", "mine/glad/10.jpg", "plain/1.jpg", "plain/2.jpg"):
        put_image(tmp_path / name)
    labelled = rows_of("folder", tmp_path / "mine", tmp_path).rows
    assert [(row.path, row.label) for row in labelled] == [("glad/2.jpg", "glad"), ("glad/10.jpg", "glad")]
    assert sorted(row.split for row in labelled) == ["test", "train"]
    assert [row.label for row in rows_of("folder", tmp_path / "plain", tmp_path).rows] == [None, None]


def test_splits_of_a_folder_by_any_of_their_names(folder: Path, tmp_path: Path) -> None:
    (folder / "test").rename(folder / "Test")
    put_image(folder / "Validation/glad/a.png")
    put_text(folder / "notes/readme.txt", "no media")
    rows = rows_of("folder", folder, tmp_path).rows
    assert Counter(row.split for row in rows) == {"train": 6, "val": 1, "test": 6}
    assert {row.label for row in rows} == {"glad", "sad"}
    put_image(folder / "dev/glad/a.png")
    with pytest.raises(DataError, match="folders of media beside Test and Validation and train: dev; a split is"):
        rows_of("folder", folder, tmp_path)
    put_image(folder / "valid/glad/a.png")
    with pytest.raises(DataError, match="two folders of the val part: Validation and valid"):
        rows_of("folder", folder, tmp_path)


def test_other_files_of_a_folder_are_counted(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put_image(folder / "loose.png")
    for name in ("train/a.heic", "train/glad/a.heic", "train/glad/b.heic", "identities.csv"):
        put_text(folder / name, "sample,identity\n")
    assert len(rows_of("folder", folder, tmp_path).rows) == 12
    told = {message for message in caplog.messages if "left out" in message}
    assert told == {
        f"{folder}: 1 other files left out",
        f"{folder / 'train'}: 1 other files left out",
        f"{folder / 'train/glad'}: 2 other files left out",
    }


@pytest.mark.parametrize("given", ["labels.csv", "."])
def test_folder_by_table(tmp_path: Path, given: str) -> None:
    root = tmp_path / "mine"
    put_image(root / "a.jpg")
    put_image(root / "b/1.jpg")
    put_text(root / "labels.csv", "path,label,split,identity\na.jpg,glad,train,anna\nb,,test,\n")
    manifest = rows_of("folder", root / given, tmp_path)
    assert [(row.path, row.kind, row.label, row.split, row.identity) for row in manifest.rows] == [
        ("a.jpg", "image", "glad", "train", "anna"),
        ("b", "frames", None, "test", None),
    ]
    assert manifest.root == root.resolve()


TRAIN1 = SPLIT_FOLDER.format("train") + "/train_set_1.csv"
TEST1 = SPLIT_FOLDER.format("test") + "/test_set_1.csv"


@pytest.mark.parametrize(
    ("dataset", "file", "text", "message"),
    [
        ("dfew", TRAIN1, "clip,label\n1,2\n", "line 1: unknown column 'clip', expected the header video_name,label"),
        ("dfew", TRAIN1, "video_name\n1\n", "line 1: column 'label' is missing"),
        ("dfew", TRAIN1, "video_name,label\n1,happy\n", "line 2: field 'label': unknown label 'happy'"),
        ("dfew", TRAIN1, "video_name,label\n1,0\n2,8\n", "line 3: field 'label': unknown label '8'"),
        ("dfew", TRAIN1, "video_name,label\n1,0\n2,7\n", "from 1"),
        ("dfew", TRAIN1, "video_name,label\n1,0\n00001,1\n", "line 3: field 'video_name': '00001' is listed twice"),
        ("dfew", TRAIN1, "video_name,label\n1,0\n9,1\n", "'00009' is in the train part too"),
        ("dfew", TRAIN1, "video_name,label\n1\n", "line 2: expected 2 fields, got 1"),
        ("dfew", TRAIN1, "video_name,label\n", "holds no rows"),
        (
            "dfew",
            TRAIN1,
            "video_name,label\n1,0\n77,1\n78,1\n79,1\n80,1\n",
            "4 of 5 media do not exist: 77, 78, 79, ...",
        ),
        (
            "affectnet",
            "train_affectnet7.txt",
            "0/train 0.jpg happy\n",
            "line 1: field 'label': unknown label 'happy', expected 0 to 6",
        ),
        ("affectnet", "train_affectnet7.txt", "0/train 0.jpg 7\n", "line 1: field 'label': unknown label '7'"),
        (
            "affectnet",
            "train_affectnet7.txt",
            "0/train 0.jpg 1\n" * 2,
            "line 2: field 'path': '0/train 0.jpg' is listed twice",
        ),
        ("affectnet", "train_affectnet7.txt", "3\n", "line 1: expected 'path label'"),
        ("affectnet", "train_affectnet7.txt", "\n", "holds no rows"),
        ("affectnet", "train_affectnet7.txt", "0/train 0.jpg 1\nx.jpg 1\n", "1 of 2 media do not exist: x.jpg"),
        (
            "folder",
            "labels.csv",
            "path,class\n",
            "unknown column 'class', expected the header path,label[,split][,identity]",
        ),
        ("folder", "labels.csv", "path,label\nno.jpg,glad\n", "1 of 1 media do not exist: no.jpg"),
        ("folder", "labels.csv", "path,label\nlabels.csv,glad\n", "line 2: field 'path': 'labels.csv' is no image"),
        ("folder", "labels.csv", "path,label\n", "holds no rows"),
    ],
)
def test_wrong_label_files_are_named(
    dataset: str, file: str, text: str, message: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root = request.getfixturevalue(dataset)
    put_text(root / file, text)
    with pytest.raises(DataError) as caught:
        prepare_manifest(dataset, root, tmp_path / "out.csv", 1 if dataset == "dfew" else None)
    named = TEST1 if "train part too" in message else file
    assert str(root / named) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    ("dataset", "damage", "message"),
    [
        ("affectnet", lambda root: (root / "test_affectnet7.txt").unlink(), "no list test_*.txt"),
        ("affectnet", lambda root: put_text(root / "test_b.txt", ""), "2 lists fit test_*.txt"),
        ("dfew", lambda root: (root / "Clip").rename(root / "Clips"), "no folder of clips (looked for"),
        ("dfew", lambda root: (root / TEST1).unlink(), "no label file for fold 1"),
        ("dfew", lambda root: (root / "EmoLabel_DataSplit").rename(root / "x"), "no label folder for train"),
        ("dfew", lambda root: put_text(root / TRAIN1.replace("train_s", "s"), ""), "fold 1 is also in"),
        ("dfew", lambda root: [f.unlink() for f in (root / "Clip/jpg_256/00003").iterdir()], "00003: no frames"),
        ("voxceleb2", lambda root: (root / "dev").rename(root / "deva"), None),
        ("voxceleb2", lambda root: [(root / name).rename(root / f"{name}x") for name in ("dev", "test")], "no clips"),
    ],
)
def test_wrong_trees_are_named(
    dataset: str,
    damage: Callable[[Path], object],
    message: str | None,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    root = request.getfixturevalue(dataset)
    damage(root)
    if message is None:
        assert {row.split for row in rows_of(dataset, root, tmp_path).rows} == {"test"}
        return
    with pytest.raises(DataError) as caught:
        rows_of(dataset, root, tmp_path)
    assert message in str(caught.value)
    assert str(root) in str(caught.value)


@pytest.mark.parametrize(
    ("dataset", "root", "fold", "error", "message"),
    [
        ("dfwe", ".", None, UsageError, "dataset 'dfwe' is unknown, did you mean dfew?"),
        ("dfew", "missing", None, DataError, "missing: no such folder"),
        ("folder", ".", 1, UsageError, "--fold 1: dataset folder has no folds"),
        ("folder", ".", None, DataError, "no images or videos"),
    ],
)
def test_wrong_calls_are_named(
    dataset: str, root: str, fold: int | None, error: type[UserError], message: str, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(error, match=message.replace("?", r"\?")):
        prepare_manifest(dataset, tmp_path / "empty" / root, tmp_path / "out.csv", fold)


def test_a_missing_fold_is_a_usage_error(dfew: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--fold 3: .* has folds 1, 2"):
        rows_of("dfew", dfew, tmp_path, fold=3)


def test_ambiguous_dfew_labels_are_refused(dfew: Path, tmp_path: Path) -> None:
    for path in dfew.glob("EmoLabel_DataSplit/*/*.csv"):
        path.write_text(path.read_text().replace(",0", ",1"))
    with pytest.raises(DataError, match="neither 0 nor 7 occurs"):
        rows_of("dfew", dfew, tmp_path)
