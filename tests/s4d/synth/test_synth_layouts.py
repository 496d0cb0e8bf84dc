"""What lies on disk: the three layouts to the letter, disjoint people, files that decode, the same bytes per seed."""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter
from pathlib import Path

import av
import pytest
from PIL import Image

from s4d.errors import UsageError
from s4d.synth import SynthReport, synthesize
from s4d.synth.affectnet import CLASS_ORDER as AFFECTNET_ORDER
from s4d.synth.dfew import CLASS_ORDER as DFEW_ORDER
from s4d.synth.recipe import CLIP_FRAMES, PRETRAIN_FRAMES

SIZES = {"clips": 70, "images": 140, "identities": 10, "pretrain_clips": 6, "size": 32}


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> SynthReport:
    return synthesize(tmp_path_factory.mktemp("synth") / "data", seed=3, workers=1, **SIZES)


def people_of(folder: Path) -> dict[str, str]:
    with (folder / "identities.csv").open(encoding="utf-8") as file:
        return {row["sample"]: row["identity"] for row in csv.DictReader(file)}


def read_list(folder: Path, split: str) -> list[tuple[str, int]]:
    lines = (folder / f"{split}_affectnet7.txt").read_text(encoding="utf-8").splitlines()
    return [(path, int(label)) for path, label in (line.split(" ") for line in lines)]


def read_fold(folder: Path, split: str, fold: int) -> list[tuple[str, int]]:
    path = folder / "EmoLabel_DataSplit" / f"{split}(single-labeled)" / f"{split}_set_{fold}.csv"
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    assert header == "video_name,label"
    return [(name, int(label)) for name, label in (line.split(",") for line in lines)]


def test_affectnet_tree(report: SynthReport) -> None:
    folder = report.out / "affectnet"
    splits = {split: read_list(folder, split) for split in ("train", "test")}
    paths = [path for rows in splits.values() for path, _ in rows]
    assert len(paths) == len(set(paths)) == SIZES["images"]
    for path in paths:
        assert re.fullmatch(r"Manually_Annotated_Images/\d+/[0-9a-f]{56}\.jpg", path)
    with Image.open(folder / paths[0]) as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (32, 32), "RGB")
    for rows in splits.values():
        counts = Counter(label for _, label in rows)
        assert set(counts) == set(range(7))
        assert max(counts.values()) == min(counts.values())
    assert AFFECTNET_ORDER == ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger")
    people = people_of(folder)
    train, test = ({people[path] for path, _ in splits[split]} for split in ("train", "test"))
    assert train and test and not train & test


def test_dfew_tree(report: SynthReport) -> None:
    folder = report.out / "dfew"
    people = people_of(folder)
    tested: list[str] = []
    for fold in range(1, 6):
        train, test = read_fold(folder, "train", fold), read_fold(folder, "test", fold)
        assert {name for name, _ in train} | {name for name, _ in test} == set(people)
        assert not {people[name] for name, _ in train} & {people[name] for name, _ in test}
        assert {label for _, label in test} == set(range(7))
        tested += [name for name, _ in test]
    assert sorted(tested) == sorted(people)
    assert DFEW_ORDER == ("happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear")
    clips = sorted((folder / "Clip" / "jpg_256").iterdir())
    assert [clip.name for clip in clips] == [f"{number:05d}" for number in range(1, SIZES["clips"] + 1)]
    for clip in clips:
        assert sorted(path.name for path in clip.iterdir()) == [f"{n:05d}.jpg" for n in range(1, CLIP_FRAMES + 1)]


def test_voxceleb2_tree_decodes_and_shows_no_test_person(report: SynthReport) -> None:
    root = report.out / "voxceleb2"
    clips = sorted(root.rglob("*.mp4"))
    assert len(clips) == report.pretrain_clips == SIZES["pretrain_clips"]
    seen = set()
    for clip in clips:
        place = clip.relative_to(root).as_posix()
        match = re.fullmatch(r"dev/mp4/(id\d{5})/[A-Za-z0-9_-]{11}/\d{5}\.mp4", place)
        assert match is not None, place
        seen.add(match[1])
        with av.open(str(clip)) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.average_rate) == ("h264", 25)
            assert (stream.width, stream.height) == (32, 32)
            assert sum(1 for _ in container.decode(video=0)) == PRETRAIN_FRAMES
    people = people_of(report.out / "affectnet")
    assert not seen & {people[path] for path, _ in read_list(report.out / "affectnet", "test")}
    fold_test = {people_of(report.out / "dfew")[name] for name, _ in read_fold(report.out / "dfew", "test", 1)}
    assert not seen & fold_test


def test_contact_sheet_and_counts(report: SynthReport) -> None:
    assert report.frames == SIZES["images"] + SIZES["clips"] * CLIP_FRAMES + SIZES["pretrain_clips"] * PRETRAIN_FRAMES
    assert report.contact_sheet == report.out / "contact_sheet.png"
    with Image.open(report.contact_sheet) as sheet:
        assert sheet.format == "PNG"
        assert sheet.height == 96 * (7 + 2 * 7)
    assert sorted(entry.name for entry in report.out.iterdir()) == [
        "affectnet",
        "contact_sheet.png",
        "dfew",
        "voxceleb2",
    ]


def test_same_seed_same_bytes_whatever_the_workers(tmp_path: Path) -> None:
    sizes = {"clips": 3, "images": 12, "identities": 5, "pretrain_clips": 2, "size": 32}
    runs = {
        name: digests(synthesize(tmp_path / name, seed=seed, workers=workers, **sizes).out)
        for name, seed, workers in (("one", 5, 1), ("two", 5, 2), ("other", 6, 1))
    }
    assert runs["one"] == runs["two"]
    assert not set(runs["one"].values()) & set(runs["other"].values()) - _label_files(runs["other"])


def _label_files(run: dict[str, str]) -> set[str]:
    """Digests of csv files: clip names and people are the same for every seed."""
    return {digest for path, digest in run.items() if path.endswith(".csv")}


def test_a_third_as_many_pretraining_clips_by_default(tmp_path: Path) -> None:
    report = synthesize(tmp_path / "data", clips=3, images=0, identities=5, seed=0, size=32, workers=1)
    assert report.pretrain_clips == 1


@pytest.mark.parametrize(
    ("change", "field"),
    [({"identities": 4}, "identities"), ({"clips": -1}, "clips"), ({"size": 33}, "size"), ({"seed": -1}, "seed")],
)
def test_impossible_sizes_are_usage_errors(tmp_path: Path, change: dict[str, int], field: str) -> None:
    values = {"clips": 1, "images": 1, "identities": 5, "seed": 0, **change}
    with pytest.raises(UsageError, match=field):
        synthesize(tmp_path / "data", **values)
    assert not (tmp_path / "data").exists()


def test_occupied_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dfew").mkdir()
    with pytest.raises(UsageError, match="dfew"):
        synthesize(tmp_path, clips=1, images=1, identities=5, seed=0, size=32, workers=1)
