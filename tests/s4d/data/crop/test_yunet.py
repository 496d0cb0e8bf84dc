"""YuNet through OpenCV with a network written by hand: boxes, points, scale, and files that are no model."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from s4d.data.crop.yunet import load_yunet
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
