"""Files to profile the data path with: those of a folder, or generated clips and images, and runs that read them.

Generated clips have 224 x 224 pixels at 25 frames a second, in H.264 with the encoder's own defaults: a textured patch
that moves before a moving background, with sensor noise, at a bit rate of talking faces. A few of them are encoded
and stand under many names, so that each visit is the first one as in a large dataset, from warm storage.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from s4d.config import Config
from s4d.data.manifest import ManifestRow
from s4d.data.manifest_io import Manifest, write_manifest
from s4d.data.media import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from s4d.errors import UsageError

SIDE, FPS = 224, 25
SECONDS = (4, 5, 6, 7, 8, 9, 10, 11)
PICTURES, PICTURE_SIDE = 8, 320
# Images pass faster than clips.
IMAGE_NAMES = 8
# Most files of a folder that are written to a cache.
CACHED = 32
# Grain sizes of the texture, in cells across, and how loud each is against the one before.
GRAINS = (4, 8, 16, 32, 64, 128)
NOISE = 5.0

# Augmentation of the pre-training recipe, and one that only cuts out.
CROPS: dict[str, dict[str, dict[str, object]]] = {
    "recipe": {
        "image": {"crop_area": [0.2, 1.0], "interpolation": "bicubic", "flip": 0.5},
        "video": {"resize_to": 192, "crop_area": [0.08, 1.0], "flip": 0.5},
    },
    "plain": {
        "image": {"resize_to": 192, "crop": "random", "flip": 0.0},
        "video": {"resize_to": 192, "crop": "random", "flip": 0.0},
    },
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Files:
    """Manifests by modality; `distinct` has a few different files for a cache; `what` says where they are from."""

    manifests: dict[str, Path]
    distinct: dict[str, Path]
    counts: dict[str, int]
    what: str


def generated_files(folder: Path, names: int) -> Files:
    """Encode clips and images; the clips get `names` names, the images more."""
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    rng = np.random.default_rng(0)
    (folder / "media").mkdir(parents=True, exist_ok=True)
    clips = [folder / f"clip{number}.mp4" for number in range(len(SECONDS))]
    for path, seconds in zip(clips, SECONDS, strict=True):
        _encode_clip(path, codec, seconds * FPS, rng)
    pictures = [folder / f"picture{number}.jpg" for number in range(PICTURES)]
    for path in pictures:
        Image.fromarray(_texture(rng, PICTURE_SIDE).astype(np.uint8)).save(path, quality=90)
    many = {"video": _named(clips, folder / "media", names)}
    many["image"] = _named(pictures, folder / "media", names * IMAGE_NAMES)
    few = {"video": clips, "image": pictures}
    rate = sum(path.stat().st_size for path in clips) * 8 / sum(SECONDS) / 1000
    clip = f"clips of {SECONDS[0]} to {SECONDS[-1]} s, {SIDE} x {SIDE} at {FPS} fps, {codec}, {rate:.0f} kbit/s"
    return Files(
        manifests={kind: _manifest(paths, kind, folder / f"{kind}.csv") for kind, paths in many.items()},
        distinct={kind: _manifest(paths, kind, folder / f"{kind}_few.csv") for kind, paths in few.items()},
        counts={kind: len(paths) for kind, paths in many.items()},
        what=f"generated: {len(clips)} {clip}, and {PICTURES} JPEG images of {PICTURE_SIDE} x {PICTURE_SIDE}, "
        f"under {names} and {names * IMAGE_NAMES} names",
    )


def found_files(source: Path, folder: Path, names: int) -> Files:
    """The first `names` videos and images below `source`, in the order of their paths."""
    if not source.is_dir():
        raise UsageError(f"--files: no such folder {source}")
    suffixes = {"video": VIDEO_SUFFIXES, "image": IMAGE_SUFFIXES}
    paths = sorted(path for path in source.resolve().rglob("*") if path.is_file())
    found = {kind: [path for path in paths if path.suffix.lower() in known][:names] for kind, known in suffixes.items()}
    found = {kind: chosen for kind, chosen in found.items() if chosen}
    if not found:
        raise UsageError(f"--files: no videos or images below {source}")
    folder.mkdir(parents=True, exist_ok=True)
    counts = {kind: len(chosen) for kind, chosen in found.items()}
    text = " and ".join(f"{count} {kind}s" for kind, count in counts.items())
    return Files(
        manifests={kind: _manifest(chosen, kind, folder / f"{kind}.csv") for kind, chosen in found.items()},
        distinct={kind: _manifest(chosen[:CACHED], kind, folder / f"{kind}_few.csv") for kind, chosen in found.items()},
        counts=counts,
        what=f"{text} below {source.name}",
    )


def profile_config(
    manifests: Mapping[str, Path],
    per_step: Mapping[str, int],
    *,
    crop: str,
    steps: int,
    workers: int,
    views: int = 1,
    backend: str = "pyav",
    caches: Mapping[str, Path] | None = None,
) -> Config:
    """A run that reads manifests with the views of the pre-training recipe: 16 frames at stride 4, 160 x 160 pixels.

    `per_step` has the views of each modality in a step, `caches` the folder of its cache where that is to be read.
    """
    sources = [
        {
            "name": kind,
            "modality": kind,
            "manifest": os.fspath(manifests[kind]),
            "cache": os.fspath(caches[kind]) if caches else None,
            "stride": 4,
            "views": views,
        }
        for kind in per_step
    ]
    return Config.model_validate(
        {
            "name": "profile-data",
            "run_dir": "runs/profile-data",
            "task": "pretrain",
            "model": {"size": "base", "image_size": 160, "num_frames": 16},
            "data": {
                "sources": sources,
                "backend": backend,
                "workers": workers,
                **CROPS[crop],
            },
            "batch": {"per_step": dict(per_step)},
            "optim": {"lr": 1e-3},
            "engine": {"steps": steps},
        }
    )


def _texture(rng: np.random.Generator, side: int) -> NDArray[np.float32]:
    """Noise at all scales, quieter the finer it is, as in pictures of real things: (side, side, 3) within 0 to 255."""
    total = np.zeros((side, side, 3), np.float32)
    for cells in GRAINS:
        small = rng.normal(0, 1, (cells, cells, 3)).astype(np.float32)
        planes = [Image.fromarray(small[..., c]).resize((side, side), Image.Resampling.BICUBIC) for c in range(3)]
        total += np.stack([np.asarray(plane) for plane in planes], axis=-1) / cells**0.75
    return np.clip(128 + 110 * total, 0, 255).astype(np.float32)


def _encode_clip(path: Path, codec: str, frames: int, rng: np.random.Generator) -> None:
    background, face = _texture(rng, 320), Image.fromarray(_texture(rng, 320).astype(np.uint8))
    rows, columns = np.mgrid[:SIDE, :SIDE]
    reach, speed, phase = rng.uniform(5, 14, 6), rng.uniform(0.03, 0.12, 6), rng.uniform(0, 6.28, 6)
    with av.open(os.fspath(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS, options={} if codec == "libx264" else {"bf": "2", "qscale": "4"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        for number in range(frames):
            moved = reach * np.sin(speed * number + phase)
            top, left = 48 + int(moved[0] / 5), 48 + int(moved[1] / 5)
            scale, turn = 1 + 0.006 * moved[4], 0.003 * moved[5]
            placed = face.transform(
                (SIDE, SIDE),
                Image.Transform.AFFINE,
                (scale, turn, 48 + moved[3], -turn, scale, 48 + moved[2]),
                Image.Resampling.BILINEAR,
            )
            distance = np.hypot(0.8 * (rows - 112 - moved[2]), columns - 112 - moved[3])
            share = np.clip((80 - distance) / 6, 0, 1)[..., None]
            picture = background[top : top + SIDE, left : left + SIDE] * (1 - share) + np.asarray(placed) * share
            picture = np.clip(picture + rng.normal(0, NOISE, (SIDE, SIDE, 1)), 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def _named(paths: Sequence[Path], folder: Path, names: int) -> list[Path]:
    """`names` further names of the files, in turn."""
    links = []
    for number in range(names):
        path = paths[number % len(paths)]
        links.append(folder / f"{number:05d}{path.suffix}")
        os.link(path, links[-1])
    return links


def _manifest(paths: Sequence[Path], kind: str, target: Path) -> Path:
    root = Path(os.path.commonpath([path.parent for path in paths]))
    rows = tuple(
        ManifestRow(
            sample_id=path.relative_to(root).as_posix(),
            path=path.relative_to(root).as_posix(),
            kind="video" if kind == "video" else "image",
            dataset="profile",
            split="train",
        )
        for path in paths
    )
    write_manifest(Manifest(rows=rows, root=root, dataset="profile", classes=(), fingerprint=""), target)
    return target
