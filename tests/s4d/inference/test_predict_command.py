"""`s4d predict` on media of every kind, whole and broken: one clear line or a right answer each."""

from __future__ import annotations

import csv
import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from s4d.cli import main
from s4d.data.crop.faces import Face
from s4d.data.upright import EXIF, UPRIGHT
from s4d.inference.clip import open_clip
from s4d.inference.model import S4D

Video = Callable[..., Path]
Picture = Callable[..., np.ndarray]
RunMain = Callable[..., tuple[int, str, str]]


@pytest.fixture
def predict(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> RunMain:
    """Run the command with the tiny model: status, stdout and stderr."""

    def call(*arguments: object, checkpoint: Path = run) -> tuple[int, str, str]:
        out = () if "--out" in arguments else ("--out", tmp_path / "out")
        status = main(["predict", *map(str, arguments), "--checkpoint", str(checkpoint), *map(str, out)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def clip(tmp_path: Path, video_of: Video, picture_of: Picture) -> Path:
    return video_of(tmp_path / "in/my clip.mp4", [picture_of(number) for number in range(30)])


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_video_leaves_json_table_and_plot(predict: RunMain, model: S4D, clip: Path, tmp_path: Path) -> None:
    status, text, errors = predict(clip)
    assert status == 0 and errors == "" and "my clip.mp4" in text
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == ["my clip.csv", "my clip.json", "my clip.png"]
    document = json.loads((out / "my clip.json").read_text())
    expected = model.predict(clip)
    assert document["label"] == expected.label and document["classes"] == list(expected.classes)
    np.testing.assert_allclose(document["probabilities"], expected.probabilities, atol=1e-6)
    assert document["frame_count"] == 30 and document["fps"] == pytest.approx(25) and document["turned"] is False
    assert document["size"] == [64, 48] and document["crop"] is None
    rows = table(out / "my clip.csv")
    assert len(rows) == len(document["windows"]) == len(expected.windows) == 7
    for row, window, known in zip(rows, document["windows"], expected.windows, strict=True):
        assert float(row["time"]) == pytest.approx((known.start + known.end) / 2, abs=1e-3)
        assert row["label"] == window["label"]
        assert [float(row[name]) for name in expected.classes] == pytest.approx(known.probabilities, abs=1e-5)
    with Image.open(out / "my clip.png") as plot:
        assert plot.width > 800


def test_json_windows_and_hop(predict: RunMain, clip: Path) -> None:
    status, text, _ = predict(clip, "--json", "--window", 0.4, "--hop", 0.4)
    document = json.loads(text)
    windows = document["predictions"][0]["windows"]
    assert status == 0 and document["failed"] == [] and len(document["files"]) == 3
    assert [(window["first"], window["last"]) for window in windows] == [(0, 9), (10, 19), (20, 29)]
    assert [window["end"] for window in windows] == pytest.approx([0.4, 0.8, 1.2])


def test_annotated_copies(predict: RunMain, clip: Path, picture_of: Picture, tmp_path: Path) -> None:
    Image.fromarray(picture_of(1)).save(clip.parent / "face.png")
    status, _, _ = predict(clip.parent, "--annotate")
    assert status == 0
    with av.open(str(tmp_path / "out/my clip.annotated.mp4")) as container:
        frames = list(container.decode(video=0))
    assert len(frames) == 30
    assert [frame.time for frame in frames] == pytest.approx([number / 25 for number in range(30)], abs=1e-3)
    width, height = 480, 360
    assert (frames[0].width, frames[0].height) == (width + 320, height)
    shown = frames[5].to_ndarray(format="rgb24")[:, :width].astype(float)
    stored = np.asarray(Image.fromarray(picture_of(5)).resize((width, height), Image.Resampling.BILINEAR), float)
    assert np.abs(shown - stored).mean() < 12
    panel = frames[5].to_ndarray(format="rgb24")[:, width:]
    assert panel.max() > 200 and panel.mean() < 90
    with Image.open(tmp_path / "out/face.annotated.png") as still:
        assert still.size == (800, 360)
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def write_audio(path: Path, container_format: str | None = None) -> Path:
    with av.open(str(path), "w", format=container_format) as container:
        stream = container.add_stream("aac", rate=16000)
        for _ in range(4):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 16000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def broken(tmp_path: Path, clip: Path) -> dict[str, tuple[Path, str]]:
    """Files without an answer, and what the line says of each."""
    folder = tmp_path / "broken"
    folder.mkdir()
    whole = clip.read_bytes()
    contents: dict[str, tuple[bytes, str]] = {
        "empty.mp4": (b"", "the file is empty"),
        "empty.jpg": (b"", "the file is empty"),
        "empty": (b"", "the file is empty"),
        "cut.mp4": (whole[: len(whole) // 2], "cannot decode|truncated"),
        "noise.mp4": (np.random.default_rng(0).bytes(4000), "no video container of a known kind"),
        "noise.png": (np.random.default_rng(0).bytes(4000), "cannot identify image|cannot decode"),
        "text.mp4": (b"not a film\n" * 40, "no video container of a known kind"),
        "notes.txt": (b"not a film\n" * 40, "neither a picture nor a video of a known kind"),
        "unknown.xyz": (b"\0" * 4000, "neither a picture nor a video of a known kind"),
    }
    found = {}
    for name, (content, line) in contents.items():
        (folder / name).write_bytes(content)
        found[name] = (folder / name, line)
    damaged = bytearray(whole)
    start = damaged.index(b"mdat") + 8
    damaged[start : start + 4000] = b"\xff" * len(damaged[start : start + 4000])
    (folder / "damaged.mp4").write_bytes(damaged)
    found["damaged.mp4"] = (folder / "damaged.mp4", "cannot decode")
    found["sound.mp4"] = (write_audio(folder / "sound.mp4"), "holds no video stream")
    found["sound.m4a"] = (write_audio(folder / "sound.m4a", "mp4"), "holds no video stream")
    return found


NAMES = (
    *("empty.mp4", "empty.jpg", "empty", "cut.mp4", "noise.mp4", "noise.png", "text.mp4", "notes.txt"),
    *("unknown.xyz", "damaged.mp4", "sound.mp4", "sound.m4a"),
)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_without_an_answer_is_one_line(
    predict: RunMain, broken: dict[str, tuple[Path, str]], name: str, tmp_path: Path
) -> None:
    path, line = broken[name]
    status, text, errors = predict(path)
    assert status == 1 and text == "" and len(errors.splitlines()) == 1, errors
    assert str(path) in errors
    assert any(part in errors for part in line.split("|")), errors
    assert not (tmp_path / "out").exists()


def test_a_folder_goes_on_and_says_what_it_left_out(
    predict: RunMain, broken: dict[str, tuple[Path, str]], clip: Path, tmp_path: Path, picture_of: Picture
) -> None:
    folder = tmp_path / "broken"
    (folder / "sub").mkdir()
    for number in (10, 2):
        shutil.copy(clip, folder / f"sub/{number}.mp4")
    Image.fromarray(picture_of(4)).save(folder / "sub/2.png")
    status, _, errors = predict(folder)
    assert status == 1
    media = [name for name in NAMES if Path(name).suffix in (".mp4", ".jpg", ".png")]
    lines = errors.splitlines()
    assert sum(line.startswith("no answer: ") for line in lines) == len(media)
    assert f"passed over: {len(NAMES) - len(media)} files" in lines[0]
    assert f"{len(media)} of {len(media) + 3} inputs have no answer" in lines[-1]
    rows = table(tmp_path / "out/summary.csv")
    assert [row["input"] for row in rows if row["input"].startswith("sub/")] == ["sub/2.mp4", "sub/2.png", "sub/10.mp4"]
    assert {row["input"] for row in rows if row["problem"]} == set(media)
    answered = {row["input"]: row for row in rows if not row["problem"]}
    assert answered["sub/2.png"]["source"] == "faces" and answered["sub/2.mp4"]["source"] == "clips"
    assert answered["sub/2.mp4"]["angry"] and not answered["sub/2.png"]["angry"]
    written = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.json")}
    assert written == {"sub/2.mp4.json", "sub/2.png.json", "sub/10.json"}


def test_one_frame_is_a_still_that_is_held(
    predict: RunMain, model: S4D, video_of: Video, picture_of: Picture, tmp_path: Path
) -> None:
    path = video_of(tmp_path / "one.mp4", [picture_of(3)])
    status, text, _ = predict(path, "--json")
    (found,) = json.loads(text)["predictions"]
    assert status == 0 and found["frame_count"] == 1
    assert [(window["first"], window["last"]) for window in found["windows"]] == [(0, 0)]
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0)).to_ndarray(format="rgb24")
    expected = model.predict(frame, source="clips").probabilities
    np.testing.assert_allclose(found["probabilities"], expected, atol=1e-5)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("turns", range(4))
def test_a_video_that_lies_down_is_turned(
    video_of: Video, picture_of: Picture, lay_video: Callable[..., Path], tmp_path: Path, mirrored: bool, turns: int
) -> None:
    stored = [picture_of(number // 4, (80, 48)) for number in range(12)]
    path = video_of(tmp_path / "phone.mp4", stored)
    if mirrored or turns:
        lay_video(path, mirrored, turns)
    clip = open_clip(path)
    assert clip.orientation == (mirrored, turns) and clip.size == ((48, 80) if turns % 2 else (80, 48))
    seen = [index for index, frame in clip.stream(range(12)) if frame.shape == (*clip.size[::-1], 3)]
    assert seen == list(range(12))
    for index, frame in clip.stream([0, 11]):
        upright = np.rot90(stored[index][:, ::-1] if mirrored else stored[index], turns)
        assert np.abs(frame.astype(int) - upright).mean() < 6


def test_a_video_of_a_phone(
    predict: RunMain, model: S4D, video_of: Video, picture_of: Picture, lay_video: Callable[..., Path], tmp_path: Path
) -> None:
    path = lay_video(video_of(tmp_path / "phone.mp4", [picture_of(number) for number in range(12)]), False, 3)
    status, text, _ = predict(path, "--annotate", "--json")
    (found,) = json.loads(text)["predictions"]
    assert status == 0 and found["turned"] is True and found["size"] == [48, 64]
    frames = np.stack([frame for _, frame in open_clip(path).stream(range(12))])
    assert frames.shape == (12, 64, 48, 3)
    np.testing.assert_allclose(found["probabilities"], model.predict(frames).probabilities, atol=1e-5)
    with av.open(str(tmp_path / "out/phone.annotated.mp4")) as container:
        frame = next(container.decode(video=0))
        assert (frame.width, frame.height) == (270 + 320, 360) and not frame.rotation


@pytest.mark.parametrize("number", EXIF)
def test_a_picture_that_lies_down_is_turned(
    predict: RunMain, model: S4D, picture_of: Picture, tmp_path: Path, number: int
) -> None:
    """The corner that EXIF names is the one that is bright once Pillow has turned the picture itself."""
    from PIL import ImageOps

    image = Image.fromarray(picture_of(5, (80, 48)))
    exif = Image.Exif()
    exif[0x0112] = number
    image.save(tmp_path / "photo.png", exif=exif)
    with Image.open(tmp_path / "photo.png") as stored:
        upright = np.asarray(ImageOps.exif_transpose(stored))
    status, text, _ = predict(tmp_path / "photo.png", "--json")
    (found,) = json.loads(text)["predictions"]
    assert status == 0 and found["turned"] is True and found["size"] == [upright.shape[1], upright.shape[0]]
    np.testing.assert_allclose(found["probabilities"], model.predict(upright).probabilities, atol=1e-5)


@pytest.mark.parametrize(
    "exif",
    [b"II*\0\x08\0\0\0\x05\0\x1a\x01", b"\xff" * 40, b"II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0abc\0" + b"\0" * 4],
    ids=["cut", "noise", "letters for a number"],
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_turns_nothing(picture_of: Picture, tmp_path: Path, exif: bytes) -> None:
    Image.fromarray(picture_of(5)).save(tmp_path / "photo.jpg", exif=b"Exif\0\0" + exif)
    assert open_clip(tmp_path / "photo.jpg").orientation == UPRIGHT


def test_4k_and_what_is_beyond(predict: RunMain, video_of: Video, tmp_path: Path) -> None:
    frame = np.full((2160, 3840, 3), 90, np.uint8)
    status, text, _ = predict(video_of(tmp_path / "4k.mp4", [frame, frame], codec="mpeg4"), "--json")
    (found,) = json.loads(text)["predictions"]
    assert status == 0 and found["size"] == [3840, 2160] and found["frame_count"] == 2
    header = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 1 << 20, 0, 0, 54, 40, 9000, 9000, 1, 24, 0, 0, 0, 0, 0, 0)
    (tmp_path / "huge.bmp").write_bytes(header + bytes(100))
    status, _, errors = predict(tmp_path / "huge.bmp")
    assert status == 1 and "9000 x 9000 pixels, at most" in errors and len(errors.splitlines()) == 1


@pytest.mark.deep
def test_a_film_of_two_hours_fits_into_little_memory(predict: RunMain, tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=1, options={"threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        shades = [np.full((240, 320, 3), shade, np.uint8) for shade in range(0, 250, 10)]
        for number in range(2 * 3600):
            frame = av.VideoFrame.from_ndarray(shades[number // 60 % len(shades)], format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    tracemalloc.start()
    try:
        status, text, errors = predict(path, "--json", "--window", 20, "--hop", 10)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert status == 0 and errors == ""
    (found,) = json.loads(text)["predictions"]
    assert found["frame_count"] == 7200 and len(found["windows"]) == 719
    assert found["windows"][-1]["end"] == pytest.approx(7200, abs=1.1)
    # All its frames would be 1.7 GB, those that are looked at 0.7 GB.
    assert most < 150e6


def test_faces_are_cut_out_as_they_were_for_training(
    media: Path,
    tmp_path: Path,
    config_of: Callable[..., object],
    run_of: Callable[..., Path],
    predict: RunMain,
    picture_of: Picture,
    video_of: Video,
) -> None:
    """By the boxes of a table, in the recipe that the checkpoint knows."""
    recipe = "none-64-m0-e0.4-clip-w1-black-png"
    config = config_of(media).model_copy(update={"run_dir": str(tmp_path / "cropped")})  # type: ignore[attr-defined]
    checkpoint = run_of(config, crops={"faces": recipe, "clips": recipe})
    frame = picture_of(1, (120, 90))
    Image.fromarray(frame).save(tmp_path / "photo.png")
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("sample,left,top,right,bottom\nphoto.png,30,10,94,74\n")
    arguments = ("--crop", "boxes", "--boxes", boxes, "--json")
    status, text, errors = predict(tmp_path / "photo.png", *arguments, checkpoint=checkpoint)
    (found,) = json.loads(text)["predictions"]
    assert status == 0 and errors == ""
    assert found["crop"]["recipe"] == recipe and found["crop"]["face_found"] and found["size"] == [120, 90]
    expected = S4D.from_pretrained(checkpoint, device="cpu").predict(np.ascontiguousarray(frame[10:74, 30:94]))
    np.testing.assert_allclose(found["probabilities"], expected.probabilities, atol=2e-3)
    clip = video_of(tmp_path / "other.mp4", [frame] * 9)
    status, _, errors = predict(clip, *arguments, checkpoint=checkpoint)
    assert status == 1 and "no face in" in errors
    status, text, _ = predict(clip, *arguments, "--no-face", "center", checkpoint=checkpoint)
    assert status == 0 and json.loads(text)["predictions"][0]["crop"]["face_found"] is False


class Watching:
    """A detector that sees one face in every frame of a phone's upright video, and nothing in one that lies down."""

    origin = "watching"

    def detect(self, frame: np.ndarray) -> list[Face]:
        return [Face(box=(8, 20, 40, 52))] if frame.shape == (64, 48, 3) else []


def test_a_detector_sees_frames_upright(
    predict: RunMain,
    clip: Path,
    lay_video: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("s4d.data.crop.yunet.load_yunet", lambda model, sha256: Watching())
    lay_video(clip, False, 3)
    arguments = ("--crop", "yunet", "--model", tmp_path / "model.onnx", "--recipe", "box", "--annotate", "--json")
    status, text, _ = predict(clip, *arguments)
    (found,) = json.loads(text)["predictions"]
    assert status == 0 and found["turned"] is True and found["size"] == [48, 64] and found["frame_count"] == 30
    assert found["crop"]["faces"] == "watching" and found["crop"]["face_found"] is True
    assert found["windows"][-1]["end"] == pytest.approx(1.2, abs=1e-3)
    with av.open(str(tmp_path / "out/my clip.annotated.mp4")) as container:
        assert container.streams.video[0].width == 270 + 320


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--crop", "boxes"), "--boxes: --crop boxes needs"),
        (("--crop", "yunet"), "--model: --crop yunet needs"),
        (("--boxes", "b.csv"), "--boxes: belongs to --crop boxes"),
        (("--model", "m.onnx"), "belong to --crop yunet"),
        (("--recipe", "eyes"), "--recipe: needs --crop"),
        (("--window", "0"), "window: expected seconds above 0"),
        (("--source", "dogs"), "no head 'dogs'"),
    ],
)
def test_wrong_options(predict: RunMain, clip: Path, arguments: tuple[str, ...], named: str) -> None:
    status, _, errors = predict(clip, *arguments)
    assert status == 2 and named in errors and len(errors.splitlines()) == 1


def test_inputs_whose_results_would_clash(predict: RunMain, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    shutil.copy(clip, tmp_path / "b" / clip.name)
    status, _, errors = predict(clip, tmp_path / "b" / clip.name)
    assert status == 2 and "would have the name of those of" in errors
    status, _, errors = predict(tmp_path / "gone.mp4")
    assert status == 1 and "gone.mp4: no such file or folder" in errors
    (tmp_path / "bare").mkdir()
    status, _, errors = predict(tmp_path / "bare")
    assert status == 1 and "holds no pictures or videos" in errors


def test_names_of_every_kind(predict: RunMain, picture_of: Picture, tmp_path: Path) -> None:
    names = [b"\xff.png", b"a\nb.png", "名 $x_1$.png".encode()]
    (tmp_path / "odd").mkdir()
    for name in names:
        with open(os.fsencode(tmp_path / "odd") + b"/" + name, "wb") as stream:
            Image.fromarray(picture_of(1)).save(stream, "PNG")
    status, text, errors = predict(tmp_path / "odd", "--json")
    assert status == 0 and errors == ""
    assert {Path(answer["input"]).name for answer in json.loads(text)["predictions"]} == {
        "\\xff.png",
        "a\nb.png",
        "名 $x_1$.png",
    }
    assert len(table(tmp_path / "out/summary.csv")) == 3
    assert predict(tmp_path / "odd")[0] == 0


def test_folders_of_frames_are_clips_on_request(predict: RunMain, model: S4D, media: Path) -> None:
    status, text, _ = predict(media / "clips", "--frames", "--json")
    found = {Path(answer["input"]).name: answer for answer in json.loads(text)["predictions"]}
    assert status == 0 and found.keys() == {"0.mp4", "1.mp4", "2.mp4", "3.avi", "frames"}
    assert found["frames"]["frame_count"] == 11 and found["frames"]["source"] == "clips"
    assert found["frames"]["windows"][0]["start"] is None
    expected = model.predict(media / "clips/frames").probabilities
    np.testing.assert_allclose(found["frames"]["probabilities"], expected, atol=1e-5)


def test_a_crop_that_the_model_expects_is_asked_for(
    media: Path,
    tmp_path: Path,
    config_of: Callable[..., object],
    run_of: Callable[..., Path],
    predict: RunMain,
    clip: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = config_of(media).model_copy(update={"run_dir": str(tmp_path / "cropped")})  # type: ignore[attr-defined]
    checkpoint = run_of(config, crops={"clips": "eyes-224-m0.15-e0.4-frame-w5-black-jpg95"})
    status, _, _ = predict(clip, clip.with_name("other.mp4"), checkpoint=checkpoint)
    assert status == 1
    shutil.copy(clip, clip.with_name("other.mp4"))
    caplog.clear()
    status, _, _ = predict(clip.parent, checkpoint=checkpoint)
    lines = [record.getMessage() for record in caplog.records if "trained on faces cut out" in record.getMessage()]
    assert status == 0 and len(lines) == 1 and "see --crop" in lines[0]


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert os.environ.get("S4D_TRACEBACK") != "1"
    yield
