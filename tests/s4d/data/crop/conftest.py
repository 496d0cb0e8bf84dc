"""Generated faces whose points are known, as media on disk; and a detector network small enough to write by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from s4d.data.manifest import ManifestRow
from s4d.data.manifest_io import Manifest, write_manifest

Picture = NDArray[np.uint8]
EYES = (60.0, 70.0, 100.0, 62.0)
RED, BLUE = (255, 0, 0), (0, 0, 255)


def draw_eyes(eyes: tuple[float, ...], size: tuple[int, int] = (160, 120), grey: int = 96) -> Picture:
    """A grey frame of `size` (w, h) with a red left and a blue right eye, round spots of radius 5 around the points."""
    y, x = np.mgrid[0 : size[1], 0 : size[0]] + 0.5
    frame = np.full((size[1], size[0], 3), grey, np.uint8)
    for (cx, cy), colour in zip(np.reshape(eyes, (-1, 2)), (RED, BLUE), strict=True):
        cover = np.clip(5.5 - np.hypot(x - cx, y - cy), 0.0, 1.0)[..., None]
        frame = (frame + cover * (np.array(colour) - frame)).round().astype(np.uint8)
    return frame


def find_eyes(picture: Picture) -> NDArray[np.float64]:
    """Centres of the red and of the blue spot, (2, 2), weighted by how much of the colour there is."""
    values = picture.astype(np.float64)
    height, width = picture.shape[:2]
    y, x = np.mgrid[0:height, 0:width] + 0.5
    centres = []
    for own, other in ((0, 2), (2, 0)):
        weight = np.maximum(values[..., own] - values[..., other] - 60, 0.0)
        centres.append([(weight * x).sum() / weight.sum(), (weight * y).sum() / weight.sum()])
    return np.array(centres)


@pytest.fixture
def eyes() -> tuple[float, ...]:
    return EYES


@pytest.fixture
def draw() -> Callable[..., Picture]:
    return draw_eyes


@pytest.fixture
def found_eyes() -> Callable[[Picture], NDArray[np.float64]]:
    return find_eyes


def moved(frame: int) -> tuple[float, ...]:
    """Eyes of a frame of a clip: they drift to the right and down."""
    return tuple(value + step for value, step in zip(EYES, (2 * frame, frame) * 2, strict=True))


def write_video(path: Path, frames: list[Picture], *, rate: int = 30, times: list[int] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "10", "threads": "1"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = number if times is None else times[number]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture
def make_video() -> Callable[..., None]:
    return write_video


@pytest.fixture
def moved_eyes() -> Callable[[int], tuple[float, ...]]:
    return moved


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Three images, a folder of 12 frames without leading zeros and a video of 10, with `media.csv` and `faces.csv`.

    The manifest's rows have points (images) or a box (clips); the table has the points of every frame of the clips.
    """
    root = tmp_path / "data set"
    rows = []
    table = ["sample,frame,left_eye_x,left_eye_y,right_eye_x,right_eye_y\n"]
    for number in range(3):
        points = tuple(value + 3 * number for value in EYES)
        path = root / f"images/é {number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_eyes(points)).save(path)
        rows.append(made_row(f"i{number}", f"images/é {number}.png", "image", face_points=points))
        table.append(f"i{number},,{','.join(map(str, points))}\n")
    (root / "clips/a").mkdir(parents=True)
    for frame in range(12):
        Image.fromarray(draw_eyes(moved(frame))).save(root / f"clips/a/{frame + 1}.png")
        table.append(f"c0,{frame},{','.join(map(str, moved(frame)))}\n")
    rows.append(made_row("c0", "clips/a", "frames", face_box=(40, 30, 140, 110)))
    write_video(root / "videos/b.avi", [draw_eyes(moved(frame)) for frame in range(10)])
    table += [f"videos/b.avi,{frame},{','.join(map(str, moved(frame)))}\n" for frame in range(10)]
    rows.append(made_row("v0", "videos/b.avi", "video", face_box=(40, 30, 140, 110)))
    save_rows(rows, root)
    (root / "faces.csv").write_text("".join(table), encoding="utf-8")
    return root


def made_row(sample: str, path: str, kind: str, **values: object) -> ManifestRow:
    return ManifestRow(
        sample_id=sample,
        path=path,
        kind=kind,  # type: ignore[arg-type]
        dataset="made",
        split="train",
        label="glad",
        **values,  # type: ignore[arg-type]
    )


def save_rows(rows: Iterable[ManifestRow], root: Path) -> Path:
    write_manifest(
        Manifest(rows=tuple(rows), root=root, dataset="made", classes=("glad", "sad"), fingerprint=""),
        root / "media.csv",
    )
    return root / "media.csv"


@pytest.fixture
def row() -> Callable[..., ManifestRow]:
    return made_row


@pytest.fixture
def save() -> Callable[[Iterable[ManifestRow], Path], Path]:
    return save_rows


# The parts of ONNX's protocol buffers that a few convolutions need, by field number.


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    content = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _tensor(name: str, values: NDArray[np.float32] | NDArray[np.int64]) -> bytes:
    dims = b"".join(_field(1, size) for size in values.shape)
    kind = 1 if values.dtype == np.float32 else 7
    return _field(5, dims + _field(2, kind) + _field(8, name) + _field(9, values.tobytes()))


def _node(kind: str, inputs: list[str], output: str, **ints: list[int]) -> bytes:
    attributes = b"".join(
        _field(5, _field(1, name) + b"".join(_field(8, value) for value in values) + _field(20, 7))
        for name, values in ints.items()
    )
    ends = b"".join(_field(1, name) for name in inputs) + _field(2, output)
    return _field(1, ends + _field(3, output) + _field(4, kind) + attributes)


def _value(field: int, name: str, shape: list[int]) -> bytes:
    dims = b"".join(_field(1, _field(1, size)) for size in shape)
    return _field(field, _field(1, name) + _field(2, _field(1, _field(1, 1) + _field(2, dims))))


def build_network() -> bytes:
    """An ONNX file with YuNet's outputs that takes every wholly red cell of 32 x 32 pixels for the middle of a face.

    The box is 64 x 64 pixels around the cell's middle; the points lie in the cell.
    """
    nodes, initializers, outputs = b"", b"", b""
    heads = {
        "cls": np.zeros(1),
        "obj": np.ones(1),
        "bbox": np.array([0.5, 0.5, np.log(2.0), np.log(2.0)]),
        "kps": np.array([0.25, 0.25, 0.75, 0.25, 0.5, 0.5, 0.25, 0.75, 0.75, 0.75]),
    }
    for head, bias in heads.items():
        for stride in (8, 16, 32):
            name = f"{head}_{stride}"
            weight = np.zeros((len(bias), 3, stride, stride), np.float32)
            if name == "cls_32":
                # Blue, green, red.
                weight[0] = np.array([-1.0, -1.0, 1.0])[:, None, None] / (255.0 * stride * stride)
            initializers += _tensor(f"w_{name}", weight) + _tensor(f"b_{name}", bias.astype(np.float32))
            initializers += _tensor(f"s_{name}", np.array([1, -1, len(bias)], np.int64))
            convolution = ["input", f"w_{name}", f"b_{name}"]
            nodes += _node(
                "Conv", convolution, f"c_{name}", kernel_shape=[stride] * 2, strides=[stride] * 2, pads=[0] * 4
            )
            nodes += _node("Transpose", [f"c_{name}"], f"t_{name}", perm=[0, 2, 3, 1])
            nodes += _node("Reshape", [f"t_{name}", f"s_{name}"], name)
            outputs += _value(12, name, [1, (640 // stride) ** 2, len(bias)])
    graph = nodes + _field(2, "tiny") + initializers + _value(11, "input", [1, 3, 640, 640]) + outputs
    return _field(1, 8) + _field(7, graph) + _field(8, _field(1, "") + _field(2, 13))


@pytest.fixture(scope="session")
def network_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny yunet.onnx"
    path.write_bytes(build_network())
    return path
