"""What is particular about DFEW, FERV39k and MAFW: forms, folds, names and lists that contradict each other."""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from tree_case import Tree, put, put_frames, video
from trees_video import MAFW_CROPS, VIDEO_TREES

from s4d.cli import main
from s4d.data.manifest_io import prepare_manifest, read_manifest
from s4d.datasets.labels import ORDERS
from s4d.errors import DataError, UsageError


def tree_of(name: str) -> Tree:
    return next(tree for tree in VIDEO_TREES if tree.id == name)


@pytest.fixture
def built(tmp_path: Path) -> Callable[[str], Path]:
    """The miniature of that name, below a folder of the test."""

    def build(name: str) -> Path:
        tree_of(name).build(tmp_path / name)
        return tmp_path / name

    return build


def test_forms_of_one_set_say_the_same(built: Callable[[str], Path], tmp_path: Path) -> None:
    """Ids, splits, folds and labels do not depend on how the media and the lists are stored."""
    for names in (
        ("dfew-frames", "dfew-original", "dfew-sixteen"),
        ("ferv39k-original", "ferv39k-released"),
        ("mafw-clips", "mafw-frames", "mafw-captions"),
    ):
        said = []
        for name in names:
            rows = prepare_manifest(tree_of(name).dataset, built(name), tmp_path / "m.csv").rows
            said.append([(row.sample_id, row.split, row.fold, row.label) for row in rows])
        assert all(rows == said[0] for rows in said)


@pytest.mark.parametrize(
    ("name", "kind", "counted"),
    [("dfew-original", "video", False), ("dfew-sixteen", "frames", True), ("mafw-crops", "frames", True)],
)
def test_kinds_and_frame_counts(
    name: str, kind: str, counted: bool, built: Callable[[str], Path], tmp_path: Path
) -> None:
    rows = prepare_manifest(tree_of(name).dataset, built(name), tmp_path / "m.csv").rows
    assert {row.kind for row in rows} == {kind}
    assert all((row.frame_count is not None) == counted for row in rows)
    if name == "dfew-sixteen":
        assert {row.frame_count for row in rows} == {16}


def test_several_forms_beside_each_other(built: Callable[[str], Path], tmp_path: Path) -> None:
    root = built("dfew-frames")
    for number in range(1, 16):
        put(root / f"Clip/original/{number:05d}.mp4", video(number))
    with pytest.raises(DataError, match=r"several forms of the media \(Clip/jpg_256, Clip/original\)"):
        prepare_manifest("dfew", root, tmp_path / "m.csv")
    chosen = prepare_manifest("dfew", root, tmp_path / "m.csv", media="Clip/original")
    assert {row.kind for row in chosen.rows} == {"video"}
    assert {row.path for row in chosen.rows} == {f"Clip/original/{number:05d}.mp4" for number in range(1, 16)}


def test_crops_win_over_the_frames_around_them(built: Callable[[str], Path], tmp_path: Path) -> None:
    root = built("mafw-crops")
    put_frames(root / "data/frames/00001", 3)
    rows = prepare_manifest("mafw", root, tmp_path / "m.csv").rows
    assert all(row.path.startswith(f"{MAFW_CROPS}/") for row in rows)
    with pytest.raises(DataError, match=r"train.csv: line 3: field 'video_name': 10 of 11 media do not exist: 00002"):
        prepare_manifest("mafw", root, tmp_path / "m.csv", media="data/frames")


def test_complete_lists_go_before_captioned_ones(
    built: Callable[[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = built("mafw-captions")
    with caplog.at_level(logging.WARNING):
        prepare_manifest("mafw", root, tmp_path / "m.csv")
    assert f"{root / 'single'}: only the lists with captions: clips without one, all neutral ones, are missing" in (
        caplog.messages
    )
    shutil.copytree(built("mafw-clips") / "Train & Test Set/single/no_caption", root / "single/no_caption")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        prepare_manifest("mafw", root, tmp_path / "m.csv")
    assert not caplog.messages


def test_folds_of_mafw_count_with_leading_zeros(built: Callable[[str], Path], tmp_path: Path) -> None:
    root = built("mafw-clips")
    lists = root / "Train & Test Set/single/no_caption"
    (lists / "set_1").rename(lists / "set_01")
    assert {row.fold for row in prepare_manifest("mafw", root, tmp_path / "m.csv").rows} == {1, 2}
    shutil.copytree(lists / "set_01", lists / "set_1")
    with pytest.raises(DataError, match="no_caption: two folders of fold 1: set_01 and set_1"):
        prepare_manifest("mafw", root, tmp_path / "m.csv")


def test_a_tab_too_few_or_too_many_in_a_captioned_line(built: Callable[[str], Path], tmp_path: Path) -> None:
    root = built("mafw-captions")
    path = root / "single/with_caption/set_1/train.txt"
    path.write_bytes(path.read_bytes() + b"00040.mp4 anger\n")
    with pytest.raises(DataError, match=r"train.txt: line 12: expected 2 to 4 fields divided by tabs, got 1"):
        prepare_manifest("mafw", root, tmp_path / "m.csv")


def test_compound_names_have_one_spelling(built: Callable[[str], Path], tmp_path: Path) -> None:
    root = built("mafw_compound-faces")
    for path in root.glob("compound/no_caption/*/*.txt"):
        path.write_text(path.read_text().replace("fear_happiness", "Happy_fear").replace("sadness", "sad"))
    manifest = prepare_manifest("mafw_compound", root, tmp_path / "m.csv", 1)
    labels = Counter(row.label for row in manifest.rows)
    assert labels["fear_happiness"] == 2
    assert manifest.classes == tuple(sorted(labels)) and len(labels) == 11
    assert not any("happy" in name or "Happy" in name for name in labels)


@pytest.mark.parametrize(
    ("name", "damage", "error", "message"),
    [
        (
            "mafw-clips",
            lambda root: shutil.rmtree(root / "Train & Test Set/single"),
            DataError,
            "no label folder single (looked for Train & Test Set/single,",
        ),
        (
            "mafw-clips",
            lambda root: [shutil.rmtree(path) for path in root.glob("Train & Test Set/single/no_caption/set_*")],
            DataError,
            "no_caption: no folds (set_1, ...)",
        ),
        (
            "mafw-clips",
            lambda root: put(root / "Train & Test Set/single/no_caption/set_1/test.csv", ""),
            DataError,
            "set_1: 2 lists of the test split, expected one of test.txt, test.csv",
        ),
        (
            "mafw_compound-faces",
            lambda root: (path := root / "compound/no_caption/set_2/test.txt").rename(path.with_suffix(".csv")),
            DataError,
            "set_2: 0 lists of the test split, expected one of test.txt",
        ),
        (
            "ferv39k-original",
            lambda root: put(root / "Annotation/train.csv", ""),
            DataError,
            "2 lists of the train split (4_setups/All_scenes/train_All.csv, Annotation/train.csv)",
        ),
        (
            "ferv39k-original",
            lambda root: (root / "4_setups/All_scenes/test_All.csv").write_text(
                (root / "4_setups/All_scenes/train_All.csv").read_text()
            ),
            DataError,
            "test_All.csv: line 1: field 'path': 'Crime/Disgust/0001' is in the train part too",
        ),
        (
            "ferv39k-original",
            lambda root: put(root / "4_setups/All_scenes/train_All.csv", "Crime/Disgust/0001 Happy\n"),
            DataError,
            "train_All.csv: line 1: field 'path': 'Crime/Disgust/0001' has label 'happiness'",
        ),
        (
            "dfew-original",
            lambda root: put(root / "Clip/original/00016/1.jpg", b""),
            DataError,
            "holds folders (00016, ...) and videos (00001.mp4, ...)",
        ),
    ],
)
def test_contradictions_are_named(
    name: str,
    damage: Callable[[Path], object],
    error: type[Exception],
    message: str,
    built: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    root = built(name)
    damage(root)
    with pytest.raises(error) as caught:
        prepare_manifest(tree_of(name).dataset, root, tmp_path / "m.csv")
    assert str(root) in str(caught.value) and message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mafw-clips", {"fold": 3}, "--fold 3: .* has folds 1, 2"),
        ("mafw_compound-faces", {"fold": 9}, "--fold 9: .* has folds 1, 2"),
        ("ferv39k-original", {"fold": 1}, "--fold 1: dataset ferv39k has no folds"),
        ("voxceleb2-mp4", {"media": "dev"}, "--media dev: dataset voxceleb2 has its media in one place only"),
        ("mafw_compound-faces", {"labels": "s4d"}, "--labels: no label order 's4d' for dataset mafw_compound"),
    ],
)
def test_options_that_do_not_fit(
    name: str, options: dict[str, object], message: str, built: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        prepare_manifest(tree_of(name).dataset, built(name), tmp_path / "m.csv", **options)  # type: ignore[arg-type]


def test_the_command(built: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = built("mafw-crops"), tmp_path / "m.parquet"
    command = ["data", "prepare", "mafw", str(root), "--out", str(out), "--fold", "2", "--media", MAFW_CROPS, "--json"]
    assert main([*command, "--labels", "mae-dfer"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["rows"], said["splits"]) == (22, {"train": 11, "test": 11})
    assert tuple(said["classes"]) == read_manifest(out).classes == ORDERS["mafw"]["mae-dfer"]
    assert main([*command, "--labels", "mae_dfer"]) == 2
    assert "--labels: no label order 'mae_dfer' for dataset mafw, did you mean mae-dfer?" in capsys.readouterr().err
