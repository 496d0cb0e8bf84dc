"""Runs DALI: decode, frames of each view, crop and resize in one resampling, on a GPU or a CPU.

Only the device's name differs between the two. Pipelines hold no randomness and no order of their own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from s4d.data import current_file
from s4d.data.dali.files import EncodedFile
from s4d.data.dali.pipelines import INTERPOLATION, Shape, build_pipeline
from s4d.errors import DataError

# Files a GPU decodes at once, side by side on all its engines. A decoding process takes one after the other: it gains
# nothing from more, holds the frames of one only, and if a file is its end it is known which.
VIDEOS_AT_ONCE, IMAGES_AT_ONCE = 32, 128
# Failures of the machine, which no other sample would mend.
MACHINE = re.compile(r"\bcuda\b|out of memory|bad_alloc|nvcuvid|driver", re.IGNORECASE)


class Decoder:
    """Fills pixels from encoded files. Pipelines are made when first wanted and stay; not to be shared by threads."""

    def __init__(self, device: torch.device, size: int) -> None:
        self.device = device
        self.size = size
        self._pipelines: dict[Shape, Any] = {}

    def fill(
        self, files: Sequence[EncodedFile], encoded: Tensor, pixels: dict[str, Tensor]
    ) -> dict[tuple[int, int], str]:
        """Write every cut of `files` to the pixels (n, F, S, S, 3) of its modality, which are on the decoder's device.

        Returns the samples (source, row) that cannot be decoded, each with one line that names the file; their pixels
        and those of no other sample are undefined.
        """
        undecodable: dict[tuple[int, int], str] = {}
        data = encoded.numpy()
        for shape, chunk in self._chunks(files):
            for file, problem in self._decode(shape, chunk, data, pixels):
                undecodable.setdefault(file.sample, problem)
        return undecodable

    def close(self) -> None:
        """Free the pipelines' threads and memory."""
        self._pipelines.clear()

    def _chunks(self, files: Sequence[EncodedFile]) -> Iterator[tuple[Shape, list[EncodedFile]]]:
        """Files that one pipeline can decode together: as many cuts each, of as many frames each."""
        alike: dict[Shape, list[EncodedFile]] = {}
        for file in files:
            frames = len(file.cuts[0].order)
            shape = Shape(video=file.video, cuts=len(file.cuts), frames=frames, size=self.size)
            alike.setdefault(shape, []).append(file)
        for shape, group in alike.items():
            step = self._at_once(shape)
            for begin in range(0, len(group), step):
                yield shape, group[begin : begin + step]

    def _decode(
        self, shape: Shape, files: list[EncodedFile], data: NDArray[np.uint8], pixels: dict[str, Tensor]
    ) -> list[tuple[EncodedFile, str]]:
        """Decode one chunk; files that cannot be decoded are found by halving it, since DALI fails a batch as one."""
        try:
            if len(files) == 1:
                current_file.starting(files[0].path)
            self._run(shape, files, data, pixels)
            return []
        except DataError as error:
            return [(files[0], str(error))]
        except RuntimeError as error:
            # A pipeline that has failed serves no more.
            self._pipelines.pop(shape, None)
            reason = _reason(str(error))
            if MACHINE.search(reason):
                if current_file.is_watched():
                    # Whoever watches this process starts another one, and refuses a file that is too much for that too.
                    raise MemoryError(reason) from error
                raise DataError(f"data.backend: dali failed: {reason}") from error
            if len(files) == 1:
                return [(files[0], f"{files[0].path}: cannot decode: {reason}")]
        middle = len(files) // 2
        return [bad for half in (files[:middle], files[middle:]) for bad in self._decode(shape, half, data, pixels)]

    def _run(self, shape: Shape, files: list[EncodedFile], data: NDArray[np.uint8], pixels: dict[str, Tensor]) -> None:
        if shape not in self._pipelines:
            self._pipelines[shape] = build_pipeline(shape, self.device, self._at_once(shape), self._threads())
        pipeline = self._pipelines[shape]
        pipeline.feed_input("encoded", [data[file.begin : file.end] for file in files])
        if shape.video:
            pipeline.feed_input("frames", [np.array(file.frames, dtype=np.int32) for file in files])
        for number in range(shape.cuts):
            cuts = [file.cuts[number] for file in files]
            if shape.video:
                pipeline.feed_input(f"order{number}", [np.array(cut.order, dtype=np.int32) for cut in cuts])
            pipeline.feed_input(f"start{number}", [np.array(cut.start, dtype=np.float32) for cut in cuts])
            pipeline.feed_input(f"end{number}", [np.array(cut.end, dtype=np.float32) for cut in cuts])
            codes = [INTERPOLATION[cut.interpolation] for cut in cuts]
            pipeline.feed_input(f"interpolation{number}", [np.array(code, dtype=np.int32) for code in codes])
        for number, output in enumerate(pipeline.run()):
            decoded = from_dlpack(output.as_tensor())
            for file, frames in zip(files, decoded, strict=True):
                cut = file.cuts[number]
                place = pixels[cut.modality][cut.row]
                if shape.video:
                    place.copy_(frames)
                else:
                    for frame in cut.places:
                        place[frame].copy_(frames)
        if self.device.type == "cuda":
            # DALI takes its memory back as soon as the outputs are let go of; the copies must be done by then.
            torch.cuda.current_stream(self.device).synchronize()

    def _at_once(self, shape: Shape) -> int:
        if self.device.type == "cpu":
            return 1
        return VIDEOS_AT_ONCE if shape.video else IMAGES_AT_ONCE

    def _threads(self) -> int:
        """A decoding process has one; beside a GPU every engine should be fed."""
        return 1 if self.device.type == "cpu" else min(16, max(4, len(os.sched_getaffinity(0))))


def _reason(text: str) -> str:
    """The line of DALI's report that tells what happened."""
    _, _, told = text.rpartition("encountered:")
    lines = [line.strip() for line in (told or text).splitlines() if line.strip()]
    line = re.sub(r'^Assert on ".*" failed:\s*', "", lines[0]) if lines else "no reason given"
    return f"{line.partition('. ')[0].rstrip(' :')} (DALI)"
