"""The data path that most code has, to be measured against: PyAV, Pillow frame by frame, and torch's DataLoader.

A clip is decoded once from its start to the last wanted frame by one thread, and only the wanted frames are converted,
cropped and scaled. PyAV's own default converts a frame with several threads, which cost more than a small frame does;
the tuned pipeline asks for one.
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

    def __init__(self, samples: Sequence[PlainSample], *, tuned: bool = False) -> None:
        self.samples = samples
        # 0 is what PyAV does by itself.
        self.threads = 1 if tuned else 0

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> Tensor:
        sample = self.samples[number]
        if sample.kind == "video":
            images = _decode_video(sample, self.threads)
        else:
            images = {0: Image.open(sample.path).convert("RGB")}
        pictures = []
        for index in sample.frames:
            picture = images[index].resize((sample.size, sample.size), FILTERS[sample.interpolation], box=sample.box)
            if sample.flip:
                picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            pictures.append(np.asarray(picture))
        return torch.from_numpy(np.stack(pictures))


def _decode_video(sample: PlainSample, threads: int) -> dict[int, Image.Image]:
    wanted, last = set(sample.frames), max(sample.frames)
    images = {}
    with av.open(os.fspath(sample.path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        for index, frame in enumerate(container.decode(stream)):
            if index in wanted:
                images[index] = Image.fromarray(frame.reformat(format="rgb24", threads=threads).to_ndarray())
            if index == last:
                break
    return images


def plain_batches(samples: Sequence[PlainSample], *, batch: int, workers: int, tuned: bool = False) -> Iterator[Tensor]:
    """Batches (B, F, S, S, 3) in order, collated by torch."""
    options: dict[str, Any] = {}
    if workers:
        options = {"multiprocessing_context": multiprocessing.get_context("forkserver")}
    return iter(DataLoader(PlainDataset(samples, tuned=tuned), batch_size=batch, num_workers=workers, **options))
