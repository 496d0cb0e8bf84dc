"""AffectNet-7 and AffectNet-8 in their three forms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tree_case import picture, put
from trees_static import AFFECTNET_HEADER, affectnet_csv, affectnet_lists, affectnet_package, landmarks

from s4d.data.manifest_io import Manifest, prepare_manifest
from s4d.datasets import CLASS_NAMES
from s4d.datasets.landmarks import five_points
from s4d.datasets.published import PUBLISHED
from s4d.errors import DataError, UsageError

AFFECTNET = CLASS_NAMES["affectnet8"]
BUILD: dict[str, Callable[[Path], None]] = {
    "lists": affectnet_lists(7),
    "csv": affectnet_csv,
    "package": affectnet_package,
}
# What `landmarks()` has at the middle of the eyes, nose tip and mouth corners.
POINTS = (9.6, 10.0, 15.1, 10.0, 7.5, 15.8, 12.0, 18.0, 13.5, 18.8)


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[..., Manifest]:
    def make(form: str, dataset: str = "affectnet", damage: Callable[[Path], object] | None = None) -> Manifest:
        root = tmp_path / form
        root.mkdir()
        if form == "lists" and dataset == "affectnet8":
            affectnet_lists(8)(root)
        else:
            BUILD[form](root)
        if damage is not None:
            damage(root)
        return prepare_manifest(dataset, root, tmp_path / "out.parquet")

    return make


def labels_of(manifest: Manifest, split: str) -> Counter[str | None]:
    return Counter(row.label for row in manifest.rows if row.split == split)


@pytest.mark.parametrize("dataset", ["affectnet", "affectnet8"])
@pytest.mark.parametrize("form", BUILD)
def test_every_form_with_seven_and_eight_classes(prepared: Callable[..., Manifest], form: str, dataset: str) -> None:
    classes = AFFECTNET[:7] if dataset == "affectnet" else AFFECTNET
    manifest = prepared(form, dataset)
    assert manifest.classes == classes
    assert {row.dataset for row in manifest.rows} == {dataset}
    train, test = labels_of(manifest, "train"), labels_of(manifest, "test")
    if form == "lists":
        assert train == Counter([*classes, "neutral"])
    else:
        assert train == dict.fromkeys(classes, 2)
    assert test == dict.fromkeys(classes, 1)


@pytest.mark.parametrize(
    ("form", "dataset", "counts"),
    [
        ("csv", "affectnet", "8 images left out, in none of the 7 classes: 2 contempt, 2 none, 2 uncertain, 2 no face"),
        ("csv", "affectnet8", "6 images left out, in none of the 8 classes: 2 none, 2 uncertain, 2 no face"),
        ("package", "affectnet8", "3 images left out, in none of the 8 classes: 1 none, 1 uncertain, 1 no face"),
    ],
)
def test_images_of_no_class_are_counted(
    prepared: Callable[..., Manifest], caplog: pytest.LogCaptureFixture, form: str, dataset: str, counts: str
) -> None:
    prepared(form, dataset)
    assert counts in caplog.text


def test_boxes_and_points_of_the_tables(prepared: Callable[..., Manifest], caplog: pytest.LogCaptureFixture) -> None:
    rows = {row.sample_id: row for row in prepared("csv").rows}
    first = rows["0/training00.jpg"]
    assert first.path == "Manually_Annotated_Images/0/training00.jpg"
    assert (first.face_box, first.face_points) == ((0, 1, 30, 32), POINTS)
    assert rows["1/training01.jpg"].face_box is None
    assert rows["2/training02.jpg"].face_points is None
    assert rows["2/training02.jpg"].face_box == (0, 1, 30, 32)
    assert "training.csv: 1 of 14 images have no face box" in caplog.text
    assert "training.csv: 1 of 14 images have no points" in caplog.text


def test_points_of_the_package_and_names_in_counting_order(prepared: Callable[..., Manifest]) -> None:
    rows = prepared("package").rows
    assert [row.sample_id for row in rows[:9]] == [f"train_set/{i}" for i in (0, 1, 2, 3, 4, 5, 6, 11, 12)]
    assert rows[0].path == "train_set/images/0.jpg"
    assert rows[0].face_points == pytest.approx([value + 1 for value in POINTS])
    assert {row.split for row in rows if row.sample_id.startswith("val_set/")} == {"test"}


def test_codes_stored_as_numbers_and_another_name_of_the_folder(prepared: Callable[..., Manifest]) -> None:
    def change(root: Path) -> None:
        (root / "val_set").rename(root / "valid_set")
        for i, dtype in enumerate((np.int64, np.uint8, np.float64)):
            np.save(root / f"train_set/annotations/{i}_exp.npy", np.array([i], dtype=dtype))
            (root / f"train_set/annotations/{i}_lnd.npy").unlink()

    rows = {row.sample_id: row for row in prepared("package", damage=change).rows}
    assert [rows[f"train_set/{i}"].label for i in range(3)] == list(AFFECTNET[:3])
    assert rows["train_set/0"].face_points is None
    assert "valid_set/0" in rows


def test_a_table_without_header_is_read_by_position(
    prepared: Callable[..., Manifest], caplog: pytest.LogCaptureFixture
) -> None:
    def behead(root: Path) -> None:
        path = root / "validation.csv"
        rows = path.read_text().splitlines()[1:]
        path.write_text("\n".join(rows))

    manifest = prepared("csv", damage=behead)
    assert labels_of(manifest, "test") == dict.fromkeys(AFFECTNET[:7], 1)
    assert {row.sample_id for row in manifest.rows if row.split == "test" and row.face_points is None} == {
        "2/validation02.jpg"
    }
    assert "validation.csv: has no header line" in caplog.text


def test_lists_come_before_other_forms(prepared: Callable[..., Manifest], caplog: pytest.LogCaptureFixture) -> None:
    assert len(prepared("lists", damage=affectnet_csv).rows) == 15
    assert "read the lists of the S4D release" in caplog.text


def test_lists_of_seven_classes_do_not_stand_for_eight(prepared: Callable[..., Manifest], tmp_path: Path) -> None:
    root = tmp_path / "csv"
    assert len(prepared("csv", "affectnet8", affectnet_lists(7)).rows) == 24
    affectnet_lists(8)(root)
    assert len(prepare_manifest("affectnet8", root, tmp_path / "out.csv").rows) == 17
    assert len(prepare_manifest("affectnet", root, tmp_path / "out.csv").rows) == 15
    (root / "test_affectnet8.txt").unlink()
    with pytest.raises(DataError, match=r"no list test_\*.txt of 8 classes \(only test_affectnet7.txt\)"):
        prepare_manifest("affectnet8", root, tmp_path / "out.csv")


def lines_of(root: Path, name: str, row: str) -> None:
    put(root / name, f"{AFFECTNET_HEADER}\n{row}\n")


FACE = ";".join(f"{value:g}" for value in landmarks())
WRONG_TABLES = {
    f"0/a.jpg,1,2,3,4,{FACE},11,0,0": "line 2: field 'expression': unknown label '11', expected 0 to 10",
    f"0/a.jpg,1,2,3,4,{FACE},happy,0,0": "line 2: field 'expression': unknown label 'happy'",
    f"0/a.jpg,x,2,3,4,{FACE},1,0,0": "line 2: field 'face_x': expected pixels, got 'x'",
    "0/a.jpg,1,2,3,4,1;2;3,1,0,0": "line 2: field 'facial_landmarks': expected x and y of 68 points, got 3 numbers",
    f"0/a.jpg,1,2,3,4,nan{FACE[1:]},1,0,0": "line 2: field 'facial_landmarks': a coordinate is not finite",
    f"0/a.jpg,1,2,3,4,{FACE},1,0": "line 2: expected 9 fields, got 8",
    f"../a.jpg,1,2,3,4,{FACE},1,0,0": "line 2: field 'subDirectory_filePath': '../a.jpg' leads out of its folder",
    f"0/a.jpg,1,2,3,4,{FACE},1,0,0": "line 2: field 'subDirectory_filePath': 1 of 1 media do not exist: 0/a.jpg",
    f"0/training00.jpg,1,2,3,4,{FACE},9,0,0": "training.csv: holds no rows",
}


@pytest.mark.parametrize(("row", "message"), WRONG_TABLES.items())
def test_wrong_rows_of_the_tables(prepared: Callable[..., Manifest], row: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        prepared("csv", damage=lambda root: lines_of(root, "training.csv", row))
    assert message in str(caught.value)
    assert "training.csv" in str(caught.value)


EXP = "train_set/annotations/3_exp.npy"
WRONG_PACKAGES: list[tuple[Callable[[Path], object], str]] = [
    (lambda root: put(root / EXP, b""), f"{EXP}: the file is empty"),
    (lambda root: put(root / EXP, b"\x93NUMPY"), f"{EXP}: no npy file"),
    (lambda root: put(root / EXP, (root / EXP).read_bytes()[:-1]), f"{EXP}: 131 bytes, expected 132"),
    (lambda root: np.save(root / EXP, np.array("12")), "3_exp.npy: unknown label '12', expected 0 to 10"),
    (lambda root: np.save(root / EXP, np.array([1, 2])), f"{EXP}: expected one code, got 2 values"),
    (lambda root: np.save(root / EXP, np.array([{}]), allow_pickle=True), f"{EXP}: not a readable npy header: holds"),
    (lambda root: (root / EXP).unlink(), "train_set: 1 images have no annotations/N_exp.npy: 3"),
    (lambda root: (root / "train_set/images/3.jpg").unlink(), "train_set: 1 annotations have no image: 3"),
    (lambda root: put(root / "train_set/images/3.png", picture(3, ".png")), "two images of one name: 3.jpg and 3.png"),
    (
        lambda root: (root / "val_set").rename(root / "set"),
        "no folder of the test part (looked for val_set, valid_set)",
    ),
    (lambda root: (root / "val_set/images").rename(root / "set"), "val_set: no folder images"),
    (
        lambda root: np.save(root / "train_set/annotations/3_lnd.npy", np.zeros(4)),
        "3_lnd.npy: expected x and y of 68 points, got 4 numbers",
    ),
]


@pytest.mark.parametrize(("damage", "message"), WRONG_PACKAGES, ids=[message[:40] for _, message in WRONG_PACKAGES])
def test_wrong_files_of_the_package(
    prepared: Callable[..., Manifest], damage: Callable[[Path], object], message: str
) -> None:
    with pytest.raises(DataError) as caught:
        prepared("package", damage=damage)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_longer_than_any_file_system_takes(prepared: Callable[..., Manifest]) -> None:
    with pytest.raises(DataError, match="line 1: field 'path': 1 of 1 media do not exist"):
        prepared("lists", damage=lambda root: put(root / "train_affectnet7.txt", f"{'a' * 5000} 1\n"))


def test_what_is_no_affectnet_and_what_it_has_not(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing of AffectNet .*train_affectnet8\*\.txt"):
        prepare_manifest("affectnet8", tmp_path, tmp_path / "out.csv")
    with pytest.raises(UsageError, match="--fold 1: dataset affectnet has no folds"):
        prepare_manifest("affectnet", tmp_path, tmp_path / "out.csv", 1)


def test_five_points_wants_all_68() -> None:
    assert five_points(landmarks()) == POINTS
    with pytest.raises(ValueError, match="68 points, got 132 numbers"):
        five_points(landmarks()[:-4])


def test_published_counts_add_up() -> None:
    totals = {(count.split, count.total) for count in PUBLISHED["affectnet8"]}
    assert totals == {("train", 287_651), ("test", 4_000), ("test", 3_999)}
