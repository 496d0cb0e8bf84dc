"""A tiny trained model with its run folder, and media of every kind to predict on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from s4d.config import Config, save
from s4d.data.manifest import ManifestRow
from s4d.data.manifest_io import Manifest, write_manifest
from s4d.inference.model import S4D
from s4d.models.folder import write_folder
from s4d.tasks.finetune import FinetuneTask

CLASSES = {"faces": ("glad", "sad", "calm"), "clips": ("sad", "glad", "angry", "calm")}
MODEL = {
    "size": "tiny",
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 1,
    "image_size": 32,
    "num_frames": 4,
    "moae": {"num_experts": 4, "zero_init": False},
}


def picture(seed: int, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    """Smooth random colours, (height, width, 3) uint8 for a (width, height)."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC))


def write_video(
    path: Path, frames: Sequence[np.ndarray], *, rate: int = 25, codec: str = "libx264", times: Sequence[int] = ()
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={"g": "12", "threads": "1"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = times[number] if times else number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


# Where players put a step to the right and a step down, by what brings the frame there: mirror image, quarter turns
# against the clock.
MATRICES = {
    (False, 1): (0, -1, 1, 0),
    (False, 2): (-1, 0, 0, -1),
    (False, 3): (0, 1, -1, 0),
    (True, 0): (-1, 0, 0, 1),
    (True, 1): (0, 1, 1, 0),
    (True, 2): (1, 0, 0, -1),
    (True, 3): (0, -1, -1, 0),
}


def laid(path: Path, mirrored: bool, turns: int) -> Path:
    """The mp4 at `path` with a track header that asks players to lay its frames so."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40
    for number, offset in zip(MATRICES[mirrored, turns], (0, 4, 12, 16), strict=True):
        data[place + offset : place + offset + 4] = (number << 16).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    return path


def make_config(root: Path, **sections: Any) -> Config:
    sources = [
        {"name": "faces", "modality": "image", "manifest": str(root / "faces.csv")},
        {"name": "clips", "modality": "video", "manifest": str(root / "clips.csv"), "stride": 2},
    ]
    return Config.model_validate(
        {
            "name": "tiny",
            "run_dir": str(root / "run"),
            "task": "finetune",
            "model": {**MODEL, **sections.pop("model", {})},
            "data": {"sources": sources, "workers": 0, **sections.pop("data", {})},
            "batch": {"per_step": {"faces": 2, "clips": 2}},
            "optim": {"lr": 1e-3},
            "engine": {"steps": 4, "precision": "fp32"},
            **sections,
        }
    )


def make_run(config: Config, *, crops: dict[str, str] | None = None) -> Path:
    """A run folder with one checkpoint of weights that are far from agreeing on everything."""
    run = Path(config.run_dir)
    weights = {"image": 0.5, "video": 0.5}
    task = FinetuneTask(config, weights, CLASSES, rank=0, world_size=1, device=torch.device("cpu"), crops=crops)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in task.module.named_parameters():
            if name.startswith("head."):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    write_folder(run / "checkpoints/step-00000004", task.module.state_dict(), task.describe())
    (run / "checkpoints/latest").write_text("step-00000004\n")
    save(config, run / "config.yaml")
    return run


def manifest_row(path: str, kind: str, label: str) -> ManifestRow:
    return ManifestRow(sample_id=path, path=path, kind=kind, dataset="made", split="test", label=label)  # type: ignore[arg-type]


def save_manifest(root: Path, name: str, rows: Sequence[ManifestRow]) -> None:
    manifest = Manifest(rows=tuple(rows), root=root, dataset="made", classes=CLASSES[name], fingerprint="")
    write_manifest(manifest, root / f"{name}.csv")


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, videos of 1 to 40 frames in several forms and a folder of frames, with their manifests."""
    root = tmp_path_factory.mktemp("inference")
    faces, clips = [], []
    for number, size in enumerate(((64, 48), (40, 90), (300, 200))):
        path = root / f"faces/{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture(number, size)).save(path)
        faces.append(manifest_row(f"faces/{number}.jpg", "image", CLASSES["faces"][number]))
    kinds = ((1, "mp4", "libx264"), (3, "mp4", "libx264"), (40, "mp4", "libx264"), (23, "avi", "mpeg4"))
    for number, (count, suffix, codec) in enumerate(kinds):
        frames = [picture(100 * number + frame, (64 + 16 * number, 48)) for frame in range(count)]
        write_video(root / f"clips/{number}.{suffix}", frames, codec=codec)
        clips.append(manifest_row(f"clips/{number}.{suffix}", "video", CLASSES["clips"][number]))
    for frame in range(11):
        path = root / f"clips/frames/{frame}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture(900 + frame, (200, 130))).save(path)
    clips.append(manifest_row("clips/frames", "frames", "sad"))
    save_manifest(root, "faces", faces)
    save_manifest(root, "clips", clips)
    return root


@pytest.fixture(scope="session")
def run(media: Path) -> Path:
    return make_run(make_config(media, evaluation={"temporal_views": 3, "spatial_views": 2}))


@pytest.fixture(scope="session")
def model(run: Path) -> S4D:
    return S4D.from_pretrained(run, device="cpu")


@pytest.fixture
def config_of() -> Callable[..., Config]:
    return make_config


@pytest.fixture
def run_of() -> Callable[..., Path]:
    return make_run


@pytest.fixture
def picture_of() -> Callable[..., np.ndarray]:
    return picture


@pytest.fixture
def video_of() -> Callable[..., Path]:
    return write_video


@pytest.fixture
def lay_video() -> Callable[[Path, bool, int], Path]:
    return laid


@pytest.fixture
def classes() -> dict[str, tuple[str, ...]]:
    return CLASSES


@pytest.fixture
def save_rows() -> Callable[[Path, str, list[tuple[str, str, str]]], None]:
    """Write the manifest of a source from (path, kind, label)."""

    def save_all(root: Path, source: str, rows: list[tuple[str, str, str]]) -> None:
        save_manifest(root, source, [manifest_row(*row) for row in rows])

    return save_all
