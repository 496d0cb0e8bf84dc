"""From planned views to pixels: open, draw, decode once, transform every view; what to do about unreadable files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from s4d.config import Config
from s4d.data.draw_sample import DrawKey, ViewSpec, train_draw
from s4d.data.draws import SampleDraw
from s4d.data.media import Media, open_media
from s4d.data.media_limits import media_path
from s4d.data.packing import View
from s4d.data.plan import PlannedView, SamplePlan
from s4d.data.sources import Source
from s4d.data.transform import apply_draw, needed_scale
from s4d.errors import DataError

SUBSTITUTES = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Skipped:
    """A sample that could not be read and was replaced: its source and the error's line, which names the file."""

    source: str
    problem: str


class ReadSample(Protocol):
    """Reads row `row` of a source: asks `draw` what its views are and gives them to their places `out`.

    What is read, and what places are, is a backend's own affair. DataError names a file that cannot be read.
    """

    def __call__(
        self, source: Source, row: int, order: str, out: Any, *, draw: Callable[[Media], Sequence[SampleDraw]]
    ) -> Sequence[SampleDraw]: ...


def view_spec(config: Config, source: Source) -> ViewSpec:
    """What every view of a source looks like."""
    rule: str = config.data.frame_sampling
    if rule == "release" and config.task == "pretrain":
        rule = "release_pretrain"
    image = source.config.modality == "image"
    return ViewSpec(
        num_frames=1 if image else config.model.num_frames,
        stride=1 if image else source.config.stride,
        rule="window" if image else rule,
        size=config.model.image_size,
        window=source.config.window,
    )


def read_views(
    source: Source, row: int, order: str, out: NDArray[np.uint8], *, draw: Callable[[Media], Sequence[SampleDraw]]
) -> Sequence[SampleDraw]:
    """Write the views of one sample that `draw` asks for to `out` (views, F, S, S, 3) and return their draws.

    Every wanted frame is decoded once. DataError names the file.
    """
    return write_views(open_sample(source, row, order), source, out, draw)


def write_views(
    media: Media, source: Source, out: NDArray[np.uint8], draw: Callable[[Media], Sequence[SampleDraw]]
) -> Sequence[SampleDraw]:
    """`read_views` of an opened sample."""
    draws = draw(media)
    wanted = {index for item in draws for index in item.frame_indices}
    # With several views a rank may hold only some of them, and the decoded size may not depend on which.
    alone = source.config.views == 1
    scale = max(needed_scale(item, media.size, out.shape[2]) for item in draws) if alone else 1.0
    frames = media.frames(wanted, scale)
    for item, pixels in zip(draws, out, strict=True):
        apply_draw(frames, item, pixels)
    return draws


def open_sample(source: Source, row: int, order: str) -> Media:
    """A sample's frames from the source's cache where it has one, else its own file."""
    if source.cache is not None:
        return source.cache.open(row)
    sample = source.rows[row]
    origin = f"{source.config.manifest}: sample {sample.sample_id!r}"
    return open_media(media_path(source.root, sample.path, origin), sample.kind, order)


class TrainReader:
    """Reads the training views of a plan, with `data.on_error` for files that cannot be read."""

    def __init__(self, config: Config, plan: SamplePlan, read: ReadSample = read_views) -> None:
        self.config = config
        self.plan = plan
        self._read_views = read
        self.specs = [view_spec(config, source) for source in plan.sources]

    def read(self, planned: Sequence[PlannedView], out: Any) -> tuple[list[View], list[Skipped]]:
        """Read the planned views of one source to their places `out`, in order, and return what they are.

        `out` has a place for each view and is cut by slices; for `read_views` it is pixels (views, F, S, S, 3).
        With on_error skip, an unreadable sample is replaced and reported.
        """
        views: list[View] = []
        skipped: list[Skipped] = []
        for _, group in groupby(planned, key=lambda item: (item.source, item.epoch, item.position)):
            sample = list(group)
            views.extend(self._read_sample(sample, out[len(views) : len(views) + len(sample)], skipped))
        return views, skipped

    def _read_sample(self, planned: list[PlannedView], out: Any, skipped: list[Skipped]) -> list[View]:
        """Read one sample, or the next readable one of its source's order under the same draws."""
        first = planned[0]
        source = self.plan.sources[first.source]
        order = self.plan.order(first.source, first.epoch)
        tries = min(SUBSTITUTES, len(order))
        for offset in range(tries):
            row = int(order[(first.position + offset) % len(order)])
            try:
                return self._views(planned, row, out)
            except DataError as error:
                if self.config.data.on_error == "error":
                    raise
                skipped.append(Skipped(source=source.config.name, problem=str(error)))
        raise DataError(f"{source.config.manifest}: {tries} samples in a row are unreadable; {skipped[-1].problem}")

    def _views(self, planned: list[PlannedView], row: int, out: Any) -> list[View]:
        source, spec = self.plan.sources[planned[0].source], self.specs[planned[0].source]
        augment = self.config.data.image if source.config.modality == "image" else self.config.data.video

        def draw(media: Media) -> list[SampleDraw]:
            return [
                train_draw(
                    DrawKey(
                        seed=self.config.seed,
                        epoch=item.epoch,
                        sample_id=source.rows[item.row].sample_id,
                        view=item.view,
                    ),
                    spec,
                    augment,
                    frame_count=media.frame_count,
                    size=media.size,
                )
                for item in planned
            ]

        draws = self._read_views(source, row, self.config.data.order, out, draw=draw)
        return [
            View(
                sample_id=source.rows[row].sample_id,
                label=source.labels[row],
                draw=drawn,
                epoch=item.epoch,
                view=item.view,
            )
            for item, drawn in zip(planned, draws, strict=True)
        ]
