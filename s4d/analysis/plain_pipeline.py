"""The data path that most code has, to be measured against: PyAV, Pillow frame by frame, and torch's DataLoader.

Written as well as that path can be: a clip is decoded once from its start to the last wanted frame, only the wanted
frames are converted, cropped and scaled, and nothing starts threads, which cost PyAV more than a frame of this size.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainSample:
    """What is wanted of a file: its frames, and the box (left, top, right, bottom) that becomes `size` x `size`."""

    path: Path
    kind: str
    frames: tuple[int, ...]
    box: tuple[float, float, float, float]
    size: int
    interpolation: str
    flip: bool


class PlainDataset(Dataset[Tensor]):
    """uint8 pixels (F, S, S, 3) of each sample."""

    def __init__(self, samples: Sequence[PlainSample]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> Tensor:
        sample = self.samples[number]
        images = _decode_video(sample) if sample.kind == "video" else {0: Image.open(sample.path).convert("RGB")}
        pictures = []
        for index in sample.frames:
            picture = images[index].resize((sample.size, sample.size), FILTERS[sample.interpolation], box=sample.box)
            if sample.flip:
                picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            pictures.append(np.asarray(picture))
        return torch.from_numpy(np.stack(pictures))


def _decode_video(sample: PlainSample) -> dict[int, Image.Image]:
    wanted, last = set(sample.frames), max(sample.frames)
    images = {}
    with av.open(os.fspath(sample.path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        for index, frame in enumerate(container.decode(stream)):
            if index in wanted:
                images[index] = Image.fromarray(frame.reformat(format="rgb24", threads=1).to_ndarray())
            if index == last:
                break
    return images


def plain_batches(samples: Sequence[PlainSample], *, batch: int, workers: int) -> Iterator[Tensor]:
    """Batches (B, F, S, S, 3) in order, collated by torch."""
    options: dict[str, Any] = {}
    if workers:
        options = {"multiprocessing_context": multiprocessing.get_context("forkserver")}
    return iter(DataLoader(PlainDataset(samples), batch_size=batch, num_workers=workers, **options))
