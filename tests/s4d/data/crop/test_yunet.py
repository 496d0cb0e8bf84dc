"""YuNet through OpenCV with a network written by hand: boxes, points, scale, and files that are no model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from s4d.data.crop.finders import DetectorFinder
from s4d.data.crop.recipe import CropRecipe
from s4d.data.crop.run import crop_manifest
from s4d.data.crop.yunet import load_yunet
from s4d.data.manifest import ManifestRow
from s4d.data.manifest_io import read_manifest
from s4d.errors import DataError

cv2 = pytest.importorskip("cv2", reason="OpenCV (extra `face`) is not installed")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_finds_faces_where_they_are(network_file: Path) -> None:
    frame = np.zeros((256, 320, 3), np.uint8)
    frame[96:128, 128:160, 0] = 255
    faces = load_yunet(network_file, digest(network_file)).detect(frame)
    assert len(faces) == 1
    assert faces[0].box == pytest.approx((144 - 32, 112 - 32, 144 + 32, 112 + 32), abs=1e-3)
    assert faces[0].points == pytest.approx((136, 104, 152, 104, 144, 112, 136, 120, 152, 120), abs=1e-3)


def test_large_frames_are_shrunk_and_boxes_are_not(network_file: Path) -> None:
    frame = np.zeros((960, 1280, 3), np.uint8)
    frame[64 * 3 : 64 * 4, 64 * 7 : 64 * 8, 0] = 255
    faces = load_yunet(network_file, digest(network_file)).detect(frame)
    assert [face.box for face in faces] == [pytest.approx((480 - 64, 224 - 64, 480 + 64, 224 + 64), abs=1e-2)]


def test_no_face(network_file: Path) -> None:
    assert load_yunet(network_file, digest(network_file)).detect(np.zeros((100, 90, 3), np.uint8)) == []


def test_origin_names_the_model(network_file: Path) -> None:
    assert digest(network_file) in load_yunet(network_file, digest(network_file)).origin


def test_in_worker_processes(
    network_file: Path, tmp_path: Path, row: Callable[..., ManifestRow], save: Callable[..., Path]
) -> None:
    """Two faces in a clip: the one in the middle is followed from cell to cell, and cut out upright."""
    (tmp_path / "in/clip").mkdir(parents=True)
    for number in range(4):
        frame = np.zeros((256, 320, 3), np.uint8)
        frame[96:128, 128:160, 0] = 255
        frame[:32, :32, 0] = 255
        Image.fromarray(frame).save(tmp_path / f"in/clip/{number}.png")
    manifest = save([row("c", "clip", "frames"), row("d", "clip", "frames")], tmp_path / "in")
    finder = DetectorFinder(load_yunet(network_file, digest(network_file)))
    recipe = CropRecipe(align="none", size=96, margin=0.25, image_format="png")
    report = crop_manifest(manifest, tmp_path / "out", recipe, finder, workers=1)
    assert report.filled_frames == 0 and report.media == 1
    made = read_manifest(tmp_path / "out/manifest.csv").rows[0]
    assert made.face_box == (16, 16, 80, 80) and made.face_points == (40, 40, 56, 40, 48, 48, 40, 56, 56, 56)
    picture = np.asarray(Image.open(tmp_path / "out" / made.path / "00001.png"))
    assert (picture[33:63, 33:63, 0] == 255).all() and picture[:30].max() == 0


def test_files_that_are_no_model(network_file: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nope\.onnx: cannot read the detector's model: No such file"):
        load_yunet(tmp_path / "nope.onnx")
    with pytest.raises(DataError, match=r"not face_detection_yunet_2023mar\.onnx"):
        load_yunet(network_file)
    with pytest.raises(DataError, match=r"SHA-256 is .*, expected 00ff"):
        load_yunet(network_file, "00FF")
    pointer = tmp_path / "pointer.onnx"
    pointer.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:8f23\nsize 232589\n")
    with pytest.raises(DataError, match="Git LFS pointer"):
        load_yunet(pointer)
    for name, content in (("text.onnx", b"no model"), ("cut.onnx", network_file.read_bytes()[:5000]), ("no.onnx", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name}: not a YuNet model") as caught:
            load_yunet(tmp_path / name, digest(tmp_path / name))
        assert "\n" not in str(caught.value)
