"""Micro batches without their pixels: everything drawn and packed, and the encoded files the pixels will come from.

A draft is a pure function of the batch's number and of the samples known to be undecodable, so that any process can
make any of them. Substitutes are chosen here, as for every backend: headers are read before a file is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from s4d.config import Config
from s4d.data.batch import PackedBatch
from s4d.data.dali.files import ByteStore, Cut, EncodedFile, image_cuts, video_cuts
from s4d.data.decode_image import ImageFiles, open_files
from s4d.data.decode_video import UntimedVideo, VideoFile, video_codec
from s4d.data.draws import SampleDraw
from s4d.data.media import Media
from s4d.data.micro_batches import BatchLayout, Planned
from s4d.data.packing import View
from s4d.data.plan import SamplePlan
from s4d.data.reading import Skipped, TrainReader, open_sample
from s4d.data.sources import Source
from s4d.errors import DataError, UsageError

# A decision of DALI's makers: without a GPU it leaves out the patented codecs.
CPU_CODECS = frozenset({"vp8", "vp9", "mjpeg"})
GPU_CODECS = CPU_CODECS | {"av1", "mpeg4", "h264", "hevc"}

Sample = tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """Micro batch `index`: the pixels of `batch` are empty, their shapes (n, F, S, S, 3) are in `shapes`.

    `encoded` holds the bytes of all `files`; `draws` are those of each modality's rows, for what follows decoding.
    """

    index: int
    batch: PackedBatch
    shapes: dict[str, tuple[int, ...]]
    skipped: tuple[Skipped, ...]
    encoded: Tensor
    files: tuple[EncodedFile, ...]
    draws: dict[str, tuple[SampleDraw, ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Collected:
    """Planned views before they are packed; the fields are those of a draft, `views` by source."""

    views: list[list[View]]
    shapes: dict[str, tuple[int, ...]]
    skipped: tuple[Skipped, ...]
    encoded: Tensor
    files: tuple[EncodedFile, ...]


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of a modality's pixels; sliced like the arrays that other readers write to."""

    modality: str
    rows: range

    def __getitem__(self, part: slice) -> _Rows:
        return _Rows(self.modality, self.rows[part])


@dataclass(slots=True)
class _Collector:
    """Reads samples as encoded files; refuses those in `undecodable` with the line that names the problem."""

    numbers: Mapping[str, int]
    undecodable: Mapping[Sample, str]
    on_cpu: bool
    store: ByteStore = field(default_factory=ByteStore)
    files: list[EncodedFile] = field(default_factory=list)

    def __call__(
        self,
        source: Source,
        row: int,
        order: str,
        out: _Rows,
        *,
        draw: Callable[[Media], Sequence[SampleDraw]],
    ) -> Sequence[SampleDraw]:
        sample = (self.numbers[source.config.name], row)
        if sample in self.undecodable:
            raise DataError(self.undecodable[sample])
        if source.cache is not None:
            field = f"data.sources ({source.config.name}).cache"
            raise UsageError(f"data.backend: dali decodes files, and {field} holds decoded frames: use pyav with it")
        media = open_sample(source, row, order)
        draws = list(draw(media))
        if isinstance(media, (VideoFile, UntimedVideo)):
            check_codec(media.path, self.on_cpu)
            frames, cuts = video_cuts(draws, out.modality, out.rows)
            self._add(sample, [(media.path, frames, cuts)])
        else:
            assert isinstance(media, ImageFiles)
            by_frame = image_cuts(draws, out.modality, out.rows)
            for index in by_frame:
                # Its header must be that of an image, within the limits on size.
                open_files((media.paths[index],))
            self._add(sample, [(media.paths[index], (), by_frame[index]) for index in sorted(by_frame)])
        return draws

    def _add(self, sample: Sample, files: list[tuple[Path, tuple[int, ...], tuple[Cut, ...]]]) -> None:
        # All files of a sample or none: a sample of which one cannot be read is replaced as a whole.
        places = [self.store.add(path) for path, _, _ in files]
        for (path, frames, cuts), (begin, end) in zip(files, places, strict=True):
            self.files.append(
                EncodedFile(
                    sample=sample, path=path, video=bool(frames), begin=begin, end=end, frames=frames, cuts=cuts
                )
            )


class Drafts:
    """Drafts of one rank; `on_cpu` refuses videos that DALI decodes on a GPU only (UsageError)."""

    def __init__(self, config: Config, plan: SamplePlan, rank: int, *, on_cpu: bool) -> None:
        self.config = config
        self.on_cpu = on_cpu
        self.layout = BatchLayout(config, plan, rank)

    def __getitem__(self, index: int) -> Draft:
        return self.draft(index, {})

    def draft(self, index: int, undecodable: Mapping[Sample, str]) -> Draft:
        """Draft of a micro batch, with substitutes for the samples (source, row) in `undecodable` too."""
        found = self.collect(self.layout.planned(index), undecodable)
        draws: dict[str, tuple[SampleDraw, ...]] = dict.fromkeys(found.shapes, ())
        for source, read in zip(self.layout.plan.sources, found.views, strict=True):
            if read:
                draws[source.config.modality] += tuple(view.draw for view in read)
        pixels = {name: torch.empty((shape[0], 0, 0, 0, 3), dtype=torch.uint8) for name, shape in found.shapes.items()}
        return Draft(
            index=index,
            batch=self.layout.pack(index, found.views, pixels),
            shapes=found.shapes,
            skipped=found.skipped,
            encoded=found.encoded,
            files=found.files,
            draws=draws,
        )

    def collect(self, planned: Planned, undecodable: Mapping[Sample, str]) -> Collected:
        """The encoded files of planned views, and what the views are."""
        plan = self.layout.plan
        numbers = {source.config.name: number for number, source in enumerate(plan.sources)}
        collector = _Collector(numbers, undecodable, self.on_cpu)
        reader = TrainReader(self.config, plan, read=collector)
        shapes = self.layout.shapes(planned, reader)
        room = {modality: _Rows(modality, range(shape[0])) for modality, shape in shapes.items()}
        views, skipped = self.layout.read(planned, room, reader)
        return Collected(
            views=views,
            shapes=shapes,
            skipped=skipped,
            encoded=collector.store.join(),
            files=tuple(collector.files),
        )


def check_codec(path: Path, on_cpu: bool) -> None:
    """UsageError for a video that DALI cannot decode on a CPU, or on a GPU, whatever its content."""
    codec = video_codec(path)
    if codec not in (CPU_CODECS if on_cpu else GPU_CODECS):
        place, instead = ("CPU", "pyav or a GPU") if on_cpu else ("GPU", "pyav")
        raise UsageError(f"data.backend: dali: cannot decode {codec} on a {place} ({path}); use {instead}")
