"""A few tiny images, frame folders and videos with their manifests, and runs that read them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from s4d.config import Config
from s4d.data.manifest import ManifestRow
from s4d.data.manifest_io import Manifest, write_manifest
from s4d.data.sources import Source

CLASSES = ("calm", "glad", "sad")


def picture(seed: int, size: tuple[int, int] = (48, 48)) -> np.ndarray:
    """Smooth random colours, (height, width, 3) uint8 for a (width, height)."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC))


def frame_number(index: int) -> np.ndarray:
    """A grey frame whose level tells its number; survives lossy coding for numbers below 50."""
    return np.full((48, 48, 3), 5 * index, dtype=np.uint8)


def write_video(path: Path, frames: list[np.ndarray], *, keyframes_every: int = 12) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=25, options={"g": str(keyframes_every), "crf": "10"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


VP9 = {"g": "8", "crf": "10", "b": "0", "deadline": "realtime", "cpu-used": "8"}


def write_webm(path: Path, frames: list[np.ndarray], **options: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=25, options={**VP9, **options})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def row(path: str, kind: str, number: int, *, test: bool, label: bool = True) -> ManifestRow:
    return ManifestRow(
        sample_id=Path(path).stem,
        path=path,
        kind=kind,  # type: ignore[arg-type]
        dataset="made",
        split="test" if test else "train",
        label=CLASSES[number % 3] if label else None,
        identity=f"person{number // 2}",
    )


@pytest.fixture(scope="session")
def media_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """17 train and 5 test images, 9 and 5 frame folders, 5 train videos, with images.csv, clips.csv and videos.csv."""
    root = tmp_path_factory.mktemp("media")
    images, clips, videos = [], [], []
    (root / "images").mkdir()
    for i in range(22):
        Image.fromarray(picture(i)).save(root / f"images/i{i:02d}.jpg")
        images.append(row(f"images/i{i:02d}.jpg", "image", i, test=i >= 17))
    for i in range(14):
        (root / f"clips/c{i:02d}").mkdir(parents=True)
        for frame in range(4 + i):
            Image.fromarray(picture(100 * i + frame)).save(root / f"clips/c{i:02d}/{frame + 1}.jpg")
        clips.append(row(f"clips/c{i:02d}", "frames", i, test=i >= 9))
    for i in range(5):
        write_video(root / f"videos/v{i}.mp4", [picture(10 * i + frame) for frame in range(10 + i)])
        videos.append(row(f"videos/v{i}.mp4", "video", i, test=False, label=False))
    for name, rows in (("images", images), ("clips", clips), ("videos", videos)):
        manifest = Manifest(
            rows=tuple(rows), root=root, dataset=name, classes=() if name == "videos" else CLASSES, fingerprint=""
        )
        write_manifest(manifest, root / f"{name}.csv")
    return root


def make_config(
    sources: list[dict[str, object]], per_step: dict[str, int], *, task: str = "finetune", **sections: dict[str, object]
) -> Config:
    values: dict[str, object] = {
        "name": "made",
        "run_dir": "runs/made",
        "task": task,
        "model": {"size": "tiny", "image_size": 32, "num_frames": 4, **sections.pop("model", {})},
        "data": {"sources": sources, "workers": 0, **sections.pop("data", {})},
        "batch": {"per_step": per_step, **sections.pop("batch", {})},
        "optim": {"lr": 1e-3},
        "engine": sections.pop("engine", {"steps": 7}),
        "evaluation": sections.pop("evaluation", {}),
        **sections,
    }
    return Config.model_validate(values)


@pytest.fixture
def finetune_config(media_tree: Path) -> Callable[..., Config]:
    """Joint fine-tuning on images and frame folders; keyword arguments replace fields of sections."""

    def make(per_step: dict[str, int] | None = None, **sections: dict[str, object]) -> Config:
        sources: list[dict[str, object]] = [
            {"name": "clips", "modality": "video", "manifest": str(media_tree / "clips.csv"), "stride": 2},
            {"name": "images", "modality": "image", "manifest": str(media_tree / "images.csv")},
        ]
        return make_config(sources, per_step or {"clips": 4, "images": 8}, **sections)

    return make


@pytest.fixture
def pretrain_config(media_tree: Path) -> Callable[..., Config]:
    """Joint pre-training on images and videos, two views of each decoded video."""

    def make(per_step: dict[str, int] | None = None, **sections: dict[str, object]) -> Config:
        sources: list[dict[str, object]] = [
            {"name": "videos", "modality": "video", "manifest": str(media_tree / "videos.csv"), "views": 2},
            {"name": "images", "modality": "image", "manifest": str(media_tree / "images.csv")},
        ]
        return make_config(sources, per_step or {"videos": 4, "images": 4}, task="pretrain", **sections)

    return make


@pytest.fixture
def source_of() -> Callable[..., Source]:
    """A source of `count` samples that exist only by name."""

    def make(config: Config, name: str, count: int, labels: list[int] | None = None) -> Source:
        settings = next(source for source in config.data.sources if source.name == name)
        rows = tuple(row(f"{name}/{i:04d}", "image", i, test=False) for i in range(count))
        return Source(
            config=settings,
            rows=rows,
            labels=tuple(labels if labels is not None else [i % 3 for i in range(count)]),
            classes=CLASSES,
            root=Path("nowhere"),
            fingerprint="",
        )

    return make


@pytest.fixture
def write_clip() -> Callable[..., Path]:
    return write_video


@pytest.fixture(scope="session")
def write_vp9() -> Callable[..., Path]:
    """A VP9 file, which every decoder reads without a GPU; keyword arguments are options of the encoder."""
    return write_webm


@pytest.fixture
def numbered_frame() -> Callable[[int], np.ndarray]:
    return frame_number


@pytest.fixture(scope="session")
def picture_of() -> Callable[..., np.ndarray]:
    return picture
