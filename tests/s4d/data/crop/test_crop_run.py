"""A manifest cropped into a folder: where eyes land, what is written, continued after a kill, policies and errors."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from s4d.cli import main
from s4d.data import workers
from s4d.data.crop.faces import Face
from s4d.data.crop.finders import DetectorFinder, RowFinder, open_annotations
from s4d.data.crop.recipe import CropRecipe
from s4d.data.crop.run import crop_manifest
from s4d.data.manifest import ManifestRow
from s4d.data.manifest_io import fingerprint, read_manifest, write_manifest
from s4d.data.media import open_media
from s4d.errors import DataError, UsageError

RECIPE = CropRecipe(size=96, image_format="png", smooth=1)
# Where RECIPE puts the eyes: half a distance of 0.31474 * 96 / 1.3 to both sides of the middle, at 0.4 of the height.
PLACES = np.array([[36.38, 38.4], [59.62, 38.4]])

Picture = NDArray[np.uint8]
FindEyes = Callable[[Picture], NDArray[np.float64]]


def content(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below `folder` but the journal, whose lines tell the times of the sources."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "crop.jsonl"
    }


def frames_of(out: Path, sample: str) -> list[Picture]:
    manifest = read_manifest(next(out.glob("manifest.*")))
    row = next(row for row in manifest.rows if row.sample_id == sample)
    media = open_media(manifest.root / row.path, row.kind)
    return [media.frames((index,))[index] for index in range(media.frame_count)]


def test_eyes_land_where_the_recipe_says(dataset: Path, tmp_path: Path, found_eyes: FindEyes) -> None:
    crop_manifest(dataset / "media.csv", tmp_path / "out", RECIPE, open_annotations(dataset / "faces.csv"))
    for sample, count in (("i0", 1), ("i1", 1), ("i2", 1), ("c0", 12), ("v0", 10)):
        frames = frames_of(tmp_path / "out", sample)
        assert len(frames) == count
        for frame in frames:
            assert frame.shape == (96, 96, 3)
            # The clip went twice through a lossy coder with a quarter of the colours.
            np.testing.assert_allclose(found_eyes(frame), PLACES, atol=1.0 if sample == "v0" else 0.25)


def test_the_new_manifest(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = crop_manifest(dataset / "media.csv", out, RECIPE, open_annotations(dataset / "faces.csv"))
    before, after = read_manifest(dataset / "media.csv"), read_manifest(out / "manifest.csv")
    assert report.manifest == out / "manifest.csv" and report.rows == report.media == 5 and report.unaligned == 0
    # Other crops of the same faces are another dataset: a cache must not take one for the other.
    assert after.fingerprint != fingerprint(after.rows, after.classes, "eyes-96-m0.15-e0.4-frame-w1-reflect-png")
    assert after.crop == RECIPE.recipe_id == "eyes-96-m0.15-e0.4-frame-w1-black-png"
    assert "# root: .\n" in (out / "manifest.csv").read_text(encoding="utf-8") and after.classes == ("glad", "sad")
    assert [row.path for row in after.rows] == [
        *(f"media/images/é {number}.png" for number in range(3)),
        "media/clips/a",
        "media/videos/b.avi.mp4",
    ]
    for old, new in zip(before.rows, after.rows, strict=True):
        assert (new.sample_id, new.kind, new.label, new.split) == (old.sample_id, old.kind, old.label, old.split)
        np.testing.assert_allclose(np.reshape(new.face_points or (), (-1, 2)), PLACES, atol=0.05)
        assert new.face_box is not None and 0 <= new.face_box[0] < new.face_box[2] <= 96
    assert [row.frame_count for row in after.rows] == [None, None, None, 12, 10]
    assert after.rows[4].fps == 30.0
    (out / "elsewhere").mkdir()
    moved = tmp_path / "moved"
    out.rename(moved)
    assert read_manifest(moved / "manifest.csv").root == moved


def test_boxes_of_the_manifest(dataset: Path, tmp_path: Path, found_eyes: FindEyes) -> None:
    report = crop_manifest(dataset / "media.csv", tmp_path / "out", RECIPE, RowFinder())
    assert report.unaligned == 2
    np.testing.assert_allclose(found_eyes(frames_of(tmp_path / "out", "i1")[0]), PLACES, atol=0.25)
    # A square of 130 pixels around (90, 70) became 96: the eyes move through it as they do through the frame.
    scale = 96 / 130
    for number, frame in enumerate(frames_of(tmp_path / "out", "c0")):
        wanted = (np.array([[60, 70], [100, 62]]) + np.array([2 * number - 25, number - 5])) * scale
        np.testing.assert_allclose(found_eyes(frame), wanted, atol=0.25)
    assert read_manifest(tmp_path / "out/manifest.csv").rows[3].face_box == (11, 18, 85, 78)


def test_order_of_frames(dataset: Path, tmp_path: Path, found_eyes: FindEyes) -> None:
    """1.png ... 12.png sort otherwise as text; what is written sorts alike both ways."""
    still = replace(RECIPE, per="clip", align="none", margin=0.5)
    crop_manifest(dataset / "media.csv", tmp_path / "out", still, RowFinder())
    names = sorted(path.name for path in (tmp_path / "out/media/clips/a").iterdir())
    assert names == [f"{number:05d}.png" for number in range(1, 13)]
    places = [found_eyes(np.asarray(Image.open(tmp_path / "out/media/clips/a" / name)))[0, 0] for name in names]
    assert places == sorted(places) and places[-1] - places[0] == pytest.approx(22 * 96 / 200, abs=0.3)


def test_uneven_times_of_a_video_are_kept(
    tmp_path: Path,
    draw: Callable[..., Picture],
    make_video: Callable[..., None],
    row: Callable[..., ManifestRow],
    save: Callable[..., Path],
    eyes: tuple[float, ...],
) -> None:
    times = [0, 1, 2, 5, 6, 9, 13, 14]
    make_video(tmp_path / "in/v.mp4", [draw(eyes)] * 8, rate=25, times=times)
    manifest = save([row("v", "v.mp4", "video", face_points=eyes)], tmp_path / "in")
    crop_manifest(manifest, tmp_path / "out", RECIPE, RowFinder())
    with av.open(str(tmp_path / "out/media/v.mp4")) as container:
        stream = container.streams.video[0]
        seconds = [float(frame.pts * stream.time_base) for frame in container.decode(stream)]
    np.testing.assert_allclose(seconds, np.array(times) / 25, atol=1e-3)
    made = read_manifest(tmp_path / "out/manifest.csv").rows[0]
    assert made.frame_count == 8 and made.fps is not None


def test_the_same_bytes_with_any_number_of_workers(dataset: Path, tmp_path: Path) -> None:
    for name, processes in (("a", 0), ("b", 2)):
        finder = open_annotations(dataset / "faces.csv")
        crop_manifest(dataset / "media.csv", tmp_path / name, CropRecipe(size=64), finder, workers=processes)
    assert content(tmp_path / "a") == content(tmp_path / "b")


@dataclass(frozen=True)
class RedSpot:
    """A detector that finds the spot of the left eye and says where the right one must be; it counts its calls."""

    calls: Path
    origin: str = "red spots"

    def detect(self, frame: Picture) -> list[Face]:
        with self.calls.open("a") as stream:
            stream.write(".")
        red = np.maximum(frame[..., 0].astype(float) - frame[..., 2] - 60, 0)
        if red.max() < 100:
            return []
        y, x = np.indices(red.shape) + 0.5
        left, top = float((red * x).sum() / red.sum()), float((red * y).sum() / red.sum())
        return [Face(box=(left - 20, top - 40, left + 60, top + 40), points=(left, top, left + 40, top - 8))]


def test_detected_faces(dataset: Path, tmp_path: Path, found_eyes: FindEyes) -> None:
    Image.new("RGB", (160, 120)).save(dataset / "clips/a/3.png")
    report = crop_manifest(dataset / "media.csv", tmp_path / "out", RECIPE, DetectorFinder(RedSpot(tmp_path / "calls")))
    assert report.filled_frames == 1 and report.frames == 25
    for number, frame in enumerate(frames_of(tmp_path / "out", "c0")):
        if number != 2:
            np.testing.assert_allclose(found_eyes(frame), PLACES, atol=0.3)
    assert (tmp_path / "calls").read_text() == "." * 25


@dataclass(frozen=True)
class Slow(RedSpot):
    """A detector that takes its time."""

    def detect(self, frame: Picture) -> list[Face]:
        time.sleep(0.3)
        return [Face(box=(40, 30, 140, 110))]


def test_a_long_video_is_not_taken_for_a_stuck_one(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers, "SECONDS_PER_FILE", 1.5)
    rows = [row for row in read_manifest(dataset / "media.csv").rows if row.kind == "video"]
    write_manifest(replace(read_manifest(dataset / "media.csv"), rows=tuple(rows)), dataset / "media.csv")
    finder = DetectorFinder(Slow(tmp_path / "calls"))
    assert crop_manifest(dataset / "media.csv", tmp_path / "out", RECIPE, finder, workers=1).frames == 10
    assert not caplog.records


def test_finished_media_are_not_done_again(dataset: Path, tmp_path: Path) -> None:
    finder = DetectorFinder(RedSpot(tmp_path / "calls"))
    crop_manifest(dataset / "media.csv", tmp_path / "out", RECIPE, finder)
    first, calls = content(tmp_path / "out"), (tmp_path / "calls").read_text()
    assert crop_manifest(dataset / "media.csv", tmp_path / "out", RECIPE, finder).resumed == 5
    assert (tmp_path / "calls").read_text() == calls
    # A lost crop, a changed medium and a cut journal are each made good.
    (tmp_path / "out/media/images/é 0.png").unlink()
    os.utime(dataset / "images/é 1.png", (1, 1))
    journal = tmp_path / "out/crop.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    assert crop_manifest(dataset / "media.csv", tmp_path / "out", RECIPE, finder).resumed == 2
    assert len((tmp_path / "calls").read_text()) == 25 + 2 + 10
    assert content(tmp_path / "out") == first


def test_a_frame_overwritten_in_place_is_cropped_again(dataset: Path, tmp_path: Path) -> None:
    finder = RowFinder()
    crop_manifest(dataset / "media.csv", tmp_path / "out", RECIPE, finder)
    # The folder itself keeps its time: no name in it changes.
    Image.new("RGB", (160, 120), (10, 20, 30)).save(dataset / "clips/a/1.png")
    assert crop_manifest(dataset / "media.csv", tmp_path / "out", RECIPE, finder).resumed == 4
    assert frames_of(tmp_path / "out", "c0")[0].mean() < 40


KILLED = """
import sys, time
from pathlib import Path
from s4d.data.crop import media_files
from s4d.data.crop.finders import open_annotations
from s4d.data.crop.recipe import CropRecipe
from s4d.data.crop.run import crop_manifest
write, count = media_files._write_image, 0
def slow(picture, path, recipe):
    global count
    count += 1
    write(picture, path, recipe)
    if count == int(sys.argv[3]):
        print("here", flush=True)
        time.sleep(60)
media_files._write_image = slow
root, out = Path(sys.argv[1]), Path(sys.argv[2])
recipe = CropRecipe(size=96, image_format="png", smooth=1)
crop_manifest(root / "media.csv", out, recipe, open_annotations(root / "faces.csv"))
"""


@pytest.mark.parametrize("written", [2, 7])
def test_killed_and_continued(dataset: Path, tmp_path: Path, written: int) -> None:
    """Killed while it writes its second image, or the fourth frame of the clip."""
    finder = open_annotations(dataset / "faces.csv")
    crop_manifest(dataset / "media.csv", tmp_path / "whole", RECIPE, finder)
    out = tmp_path / "out"
    arguments = [sys.executable, "-c", KILLED, str(dataset), str(out), str(written)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "here\n"
        with pytest.raises(UsageError, match="another process is writing crops there"):
            crop_manifest(dataset / "media.csv", out, RECIPE, finder)
        os.kill(process.pid, signal.SIGKILL)
    assert not (out / "manifest.csv").exists() and not (out / "media/clips/a").exists()
    whole = content(tmp_path / "whole")
    for name, digest in content(out).items():
        assert name.startswith(".unfinished/") or whole[name] == digest
    before = time.time_ns()
    report = crop_manifest(dataset / "media.csv", out, RECIPE, finder)
    assert report.resumed == min(written - 1, 3)
    assert (out / "media/images/é 0.png").stat().st_mtime_ns < before
    assert content(out) == whole and not (out / ".unfinished").exists()


@pytest.mark.deep
@pytest.mark.timeout(600)
def test_killed_again_and_again(dataset: Path, tmp_path: Path) -> None:
    """The command with two workers, killed at whatever point, ends with the bytes of a run that nobody disturbed."""
    template = read_manifest(dataset / "media.csv").rows[3:]
    rows = [
        replace(row, sample_id=f"{row.sample_id} {n}", path=f"{n}/{row.path}") for n in range(6) for row in template
    ]
    for row in rows:
        source = dataset / row.path.partition("/")[2]
        (dataset / row.path).parent.mkdir(parents=True, exist_ok=True)
        (dataset / row.path).symlink_to(source)
    write_manifest(replace(read_manifest(dataset / "media.csv"), rows=tuple(rows)), dataset / "media.csv")
    crop_manifest(dataset / "media.csv", tmp_path / "whole", CropRecipe(size=512), RowFinder())
    out = tmp_path / "out"
    code = "import sys; from s4d.cli import main; sys.exit(main())"
    arguments = ["data", "crop", str(dataset / "media.csv"), "--out", str(out), "--size", "512", "--workers", "2"]
    generator = random.Random(0)
    kills = 0

    def finished() -> int:
        journal = out / "crop.jsonl"
        return journal.read_bytes().count(b"\n") if journal.exists() else 0

    while True:
        # By progress, not by the clock: on any machine each run gets some way and the first ones do not end.
        last = finished() + generator.randint(1, 5)
        with subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.DEVNULL) as process:
            while finished() < last and process.poll() is None:
                time.sleep(0.01)
            time.sleep(generator.uniform(0.0, 0.2))
            if process.poll() is not None:
                assert process.returncode == 0
                break
            process.kill()
            kills += 1
    assert kills > 0 and content(out) == content(tmp_path / "whole")


def without_faces(root: Path) -> None:
    """Take the eyes out of the second image and of the clip."""
    Image.new("RGB", (160, 120), (96, 96, 96)).save(root / "images/é 1.png")
    for path in (root / "clips/a").iterdir():
        Image.new("RGB", (160, 120), (96, 96, 96)).save(path)


def test_samples_without_a_face(dataset: Path, tmp_path: Path) -> None:
    without_faces(dataset)
    finder, out = DetectorFinder(RedSpot(tmp_path / "calls")), tmp_path / "out"
    with pytest.raises(DataError, match=r"media\.csv: row 2 \(sample 'i1'\): no face in .*é 1\.png"):
        crop_manifest(dataset / "media.csv", out, RECIPE, finder)
    report = crop_manifest(dataset / "media.csv", out, RECIPE, finder, no_face="skip")
    assert report.without_face == ("i1", "c0") and report.rows == 3 and report.resumed == 1
    assert [row.sample_id for row in read_manifest(out / "manifest.csv").rows] == ["i0", "i2", "v0"]
    report = crop_manifest(dataset / "media.csv", out, RECIPE, finder, no_face="center")
    assert report.centered == ("i1", "c0") and report.rows == 5
    centred = next(row for row in read_manifest(out / "manifest.csv").rows if row.sample_id == "c0")
    assert centred.face_box is None and centred.face_points is None and centred.frame_count == 12
    assert abs(frames_of(out, "c0")[0].astype(int) - 96).max() <= 1
    assert crop_manifest(dataset / "media.csv", out, RECIPE, finder, no_face="skip").rows == 3
    assert not (out / "media/clips/a").exists()


def test_skipping_damaged_media_does_not_skip_samples_without_a_face(dataset: Path, tmp_path: Path) -> None:
    without_faces(dataset)
    finder, out = DetectorFinder(RedSpot(tmp_path / "calls")), tmp_path / "out"
    with pytest.raises(DataError, match=r"row 2 \(sample 'i1'\): no face"):
        crop_manifest(dataset / "media.csv", out, RECIPE, finder, on_error="skip", no_face="error")
    assert crop_manifest(dataset / "media.csv", out, RECIPE, finder, on_error="skip", no_face="skip").failed == ()


def test_damaged_media_and_wrong_boxes(
    dataset: Path, tmp_path: Path, row: Callable[..., ManifestRow], save: Callable[..., Path]
) -> None:
    rows = list(read_manifest(dataset / "media.csv").rows)
    rows[1] = replace(rows[1], face_box=(90, 20, 40, 60), face_points=None)
    rows[3] = replace(rows[3], face_box=(170, 20, 190, 60))
    manifest = save(rows, dataset)
    video = dataset / "videos/b.avi"
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    with pytest.raises(DataError, match=r"media\.csv: row 2 \(sample 'i1'\): field 'face_box': 90 20 40 60: inverted"):
        crop_manifest(manifest, tmp_path / "a", RECIPE, RowFinder())
    report = crop_manifest(manifest, tmp_path / "b", RECIPE, RowFinder(), on_error="skip")
    assert report.rows == 2 and len(report.failed) == 3
    inverted, outside, cut = report.failed
    assert "row 2 (sample 'i1')" in inverted and "row 4 (sample 'c0')" in outside and "outside of the frame" in outside
    assert "b.avi" in cut
    with pytest.raises(DataError, match="nothing left to write"):
        crop_manifest(save(rows[1:2], dataset), tmp_path / "c", RECIPE, RowFinder(), on_error="skip")


@pytest.mark.parametrize("sample", ["i0", "c0", "v0"])
def test_a_place_that_cannot_be_written_to(dataset: Path, tmp_path: Path, sample: str) -> None:
    """It ends the run even where damaged media are skipped: they would all be left out."""
    everything = read_manifest(dataset / "media.csv")
    rows = tuple(row for row in everything.rows if row.sample_id == sample)
    write_manifest(replace(everything, rows=rows), dataset / "media.csv")
    crop_manifest(dataset / "media.csv", tmp_path / "out", RECIPE, RowFinder())
    shutil.rmtree(tmp_path / "out/media")
    (tmp_path / "out/media").write_text("")
    with pytest.raises(DataError, match=r"out/media/.*: cannot write: (Not a directory|File exists)"):
        crop_manifest(dataset / "media.csv", tmp_path / "out", RECIPE, RowFinder(), on_error="skip")


def test_missing_media(dataset: Path, tmp_path: Path) -> None:
    crop_manifest(dataset / "media.csv", tmp_path / "out", RECIPE, RowFinder())
    (dataset / "images/é 2.png").unlink()
    with pytest.raises(DataError, match=r"é 2\.png: .*No such file"):
        crop_manifest(dataset / "media.csv", tmp_path / "out", RECIPE, RowFinder())
    report = crop_manifest(dataset / "media.csv", tmp_path / "out", RECIPE, RowFinder(), on_error="skip")
    assert report.rows == 4 and report.resumed == 4 and "é 2.png" in report.failed[0]


def test_two_faces_and_several_folds(
    dataset: Path, tmp_path: Path, row: Callable[..., ManifestRow], save: Callable[..., Path]
) -> None:
    path = "images/é 0.png"
    rows = [
        row("a", path, "image", face_box=(40, 30, 140, 110), fold=1),
        row("a", path, "image", face_box=(40, 30, 140, 110), fold=2),
        row("b", path, "image", face_box=(10, 10, 60, 60), fold=1),
    ]
    report = crop_manifest(save(rows, dataset), tmp_path / "out", RECIPE, RowFinder())
    assert (report.rows, report.media) == (3, 2)
    made = [row.path for row in read_manifest(tmp_path / "out/manifest.csv").rows]
    assert made == ["media/images/é 0.png", "media/images/é 0.png", "media/images/é 0.face2.png"]


def test_names_that_clash(
    dataset: Path, tmp_path: Path, row: Callable[..., ManifestRow], save: Callable[..., Path]
) -> None:
    (dataset / "x.png.jpg").write_bytes(b"")
    rows = [row(name, name, "image", face_box=(1, 1, 9, 9)) for name in ("x.png", "x.png.jpg")]
    with pytest.raises(DataError, match=r"row 1 .*its crop media/x\.png\.jpg clashes with that of .*row 2"):
        crop_manifest(save(rows, dataset), tmp_path / "out", CropRecipe(), RowFinder())


def test_paths_that_lead_out(dataset: Path, tmp_path: Path) -> None:
    (dataset / "bad.csv").write_text("path,label,split,kind\n../outside.png,glad,train,image\n")
    with pytest.raises(DataError, match=r"bad\.csv.*'\.\./outside\.png'"):
        crop_manifest(dataset / "bad.csv", tmp_path / "out", RECIPE, RowFinder())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "status", "expected"),
    [
        (["--backend", "yunet"], 2, "--model: --backend yunet needs the path of a YuNet ONNX file"),
        (["--backend", "yunet", "--model", "no.onnx"], 1, "no.onnx: cannot read the detector's model"),
        (["--backend", "yunet", "--boxes", "faces.csv"], 2, "--boxes: belongs to --backend boxes"),
        (["--model", "no.onnx"], 2, "--model, --model-sha256: belong to --backend yunet"),
        (["--boxes", "no.csv"], 1, "no.csv: no such table of boxes or folder of OpenFace files"),
        (["--recipe", "nose"], 2, "crop recipe 'nose': expected eyes, points, box or an id"),
        (["--size", "99"], 2, "crop recipe: size: expected an even number"),
        (["--workers", "-1"], 2, "--workers"),
    ],
)
def test_wrong_options(
    dataset: Path, tmp_path: Path, options: list[str], status: int, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "crop", str(dataset / "media.csv"), "--out", str(tmp_path / "out"), *options]) == status
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and expected in printed.err
    assert not (tmp_path / "out").exists()


def test_the_command(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    without_faces(dataset)
    table = dataset / "faces.csv"
    table.write_text("".join(line for line in table.open(encoding="utf-8") if not line.startswith(("i1", "c0"))))
    arguments = ["data", "crop", str(dataset / "media.csv"), "--out", str(tmp_path / "out"), "--boxes", str(table)]
    arguments += ["--size", "64", "--no-face", "skip", "--workers", "1"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "3 samples from 5 media, recipe eyes-64-m0.15-e0.4-frame-w5-black-jpg95" in printed
    assert "without a face, left out: 2 media (i1, c0)" in printed
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["resumed"] == 5 and report["without_face"] == ["i1", "c0"] and report["rows"] == 3


def test_folders_of_something_else(dataset: Path, tmp_path: Path) -> None:
    manifest, finder, out = dataset / "media.csv", RowFinder(), tmp_path / "out"
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("")
    with pytest.raises(UsageError, match="not empty and no folder of crops"):
        crop_manifest(manifest, tmp_path / "full", RECIPE, finder)
    crop_manifest(manifest, out, RECIPE, finder)
    with pytest.raises(UsageError, match="holds crops with recipe"):
        crop_manifest(manifest, out, replace(RECIPE, margin=0.2), finder)
    with pytest.raises(UsageError, match="holds crops with faces"):
        crop_manifest(manifest, out, RECIPE, open_annotations(dataset / "faces.csv"))
    with pytest.raises(UsageError, match="cropped already, with recipe eyes-96"):
        crop_manifest(out / "manifest.csv", tmp_path / "again", RECIPE, finder)
