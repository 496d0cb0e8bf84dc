"""How fast files become batches, where the time goes, and what a plain pipeline makes of the same files and draws."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from s4d.analysis.plain_pipeline import PlainDataset, PlainSample, plain_batches
from s4d.analysis.profile_files import Files, profile_config
from s4d.analysis.profile_goals import PLAIN, TUNED
from s4d.data.decode_video import forget_videos
from s4d.data.draws import SampleDraw
from s4d.data.loader import build_batches
from s4d.data.media import Media
from s4d.data.micro_batches import BatchLayout, MicroBatches
from s4d.data.plan import build_plan
from s4d.data.reading import TrainReader, open_sample
from s4d.data.sources import Source
from s4d.data.transform import apply_draw, needed_scale, pixel_box
from s4d.data.trial_process import try_apart
from s4d.errors import UsageError

# Steps of a run whose files may come again.
ENDLESS = 1 << 20
CPU = torch.device("cpu")
# Views in a batch that DALI decodes on a GPU, which is filled by more than a decoding process is.
GPU_BATCH = 32
# Backends that a machine may lack, and what they decode.
OPTIONAL = {"dali": ("video", "image"), "torchcodec": ("video",)}
STAGES = ("read", "decode", "transform", "pack")


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """One way to make batches: `backend` is plain or plain_tuned, or one of ours; `crop` is a row of `CROPS`."""

    backend: str
    modality: str
    crop: str
    workers: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Views in a batch, seconds of each timing, timings of each setup, processes, and the folder of a cache if any.

    `optional` has the modalities that each backend of `OPTIONAL` decodes here; all but DALI's `device` is the CPU.
    """

    batch: int = 8
    seconds: float = 1.5
    rounds: int = 3
    workers: tuple[int, ...] = (0, 1, 2)
    caches: dict[str, Path] = field(default_factory=dict)
    optional: dict[str, tuple[str, ...]] = field(default_factory=dict)
    device: torch.device = CPU


def setups(files: Files, options: Options) -> list[Setup]:
    """What is measured: the recipe's crop everywhere, the plain crop where a cache can profit from it."""
    found = []
    for modality in files.manifests:
        backends = [PLAIN, *([TUNED] if modality == "video" else []), "pyav"]
        backends += [backend for backend, decoded in options.optional.items() if modality in decoded]
        backends += ["cache"] if modality in options.caches else []
        for crop in ("recipe", "plain"):
            for backend in backends if crop == "recipe" or "cache" in backends else ():
                found += [
                    Setup(backend=backend, modality=modality, crop=crop, workers=count) for count in options.workers
                ]
    return found


def refusal_of(backend: str, files: Files, modality: str, device: torch.device) -> str | None:
    """Why a backend does not decode the files of a modality to `device`; None where it does."""
    config = profile_config(files.manifests, {modality: 4}, crop="recipe", steps=1, workers=0, backend=backend)
    return try_apart(backend, config, build_plan(config, world_size=1), 0, device, samples=4).refusal


def measure(files: Files, options: Options, tell: Callable[[str], None] = lambda line: None) -> list[dict[str, Any]]:
    """A row per setup with its samples a second, the median of all rounds; the setups take turns."""
    wanted = setups(files, options)
    rates: dict[Setup, list[float]] = {setup: [] for setup in wanted}
    for turn in range(options.rounds):
        for setup in wanted[turn % len(wanted) :] + wanted[: turn % len(wanted)]:
            rates[setup].append(_rate(setup, files, options))
            tell(f"{setup.modality} {setup.crop} {setup.backend} x{setup.workers}: {rates[setup][-1]:.0f}/s")
    return [
        {**asdict(setup), "samples_per_second": median(found), "all_rounds": found} for setup, found in rates.items()
    ]


def _rate(setup: Setup, files: Files, options: Options) -> float:
    """Samples a second, once every decoding process is under way: a third of the time of a timing is not counted."""
    # As in a dataset of millions: no file is visited twice by a process that remembers it.
    forget_videos()
    gc.collect()
    arrivals, sizes = [], []
    start = None
    with closing(_batches(setup, files, options)) as stream:
        for size in stream:
            arrivals.append(time.perf_counter())
            sizes.append(size)
            if start is None:
                if len(arrivals) > 2 * setup.workers and arrivals[-1] - arrivals[0] >= options.seconds / 3:
                    start = len(arrivals)
            elif arrivals[-1] - arrivals[start - 1] >= options.seconds:
                break
    if start is None or start == len(arrivals):
        raise UsageError(
            f"{files.counts[setup.modality]} files are too few to time {setup.modality} samples by {setup.backend}, "
            f"{setup.workers} processes, for {options.seconds:g} s: more --names or fewer --seconds"
        )
    return sum(sizes[start:]) / (arrivals[-1] - arrivals[start - 1])


def _batches(setup: Setup, files: Files, options: Options) -> Generator[int, None, None]:
    """Make batches and give the samples of each."""
    device = options.device if setup.backend == "dali" else CPU
    size = options.batch if device == CPU else max(options.batch, GPU_BATCH)
    per_step = {setup.modality: size}
    if setup.backend == "cache":
        config = profile_config(
            files.distinct, per_step, crop=setup.crop, steps=ENDLESS, workers=setup.workers, caches=options.caches
        )
    else:
        steps = max(2 + 2 * setup.workers, files.counts[setup.modality] // size)
        config = profile_config(
            files.manifests,
            per_step,
            crop=setup.crop,
            steps=steps,
            workers=setup.workers,
            backend=setup.backend if setup.backend in OPTIONAL else "pyav",
        )
    if setup.backend in (PLAIN, TUNED):
        samples = plain_samples(files, setup, options, steps)
        forget_videos()
        tuned = setup.backend == TUNED
        stream = plain_batches(samples, batch=options.batch, workers=setup.workers, tuned=tuned)
        for pixels in stream:
            yield pixels.shape[0]
        return
    batches = build_batches(config, 0, 1, device)
    try:
        for packed in batches.steps(0):
            yield sum(batch.num_sequences for batch in packed)
    finally:
        batches.close()


def plain_samples(files: Files, setup: Setup, options: Options, steps: int) -> list[PlainSample]:
    """The samples of our own run, with the same draws, for the plain pipeline."""
    config = profile_config(files.manifests, {setup.modality: options.batch}, crop=setup.crop, steps=steps, workers=0)
    plan = build_plan(config, world_size=1)
    samples: list[PlainSample] = []

    def note(
        source: Source, row: int, order: str, out: Any, *, draw: Callable[[Media], Sequence[SampleDraw]]
    ) -> Sequence[SampleDraw]:
        media = open_sample(source, row, order)
        draws = draw(media)
        for item in draws:
            samples.append(
                PlainSample(
                    path=source.root / source.rows[row].path,
                    kind=source.rows[row].kind,
                    frames=item.frame_indices,
                    box=pixel_box(item, media.size),
                    size=config.model.image_size,
                    interpolation=item.interpolation,
                    flip=item.flip,
                )
            )
        return draws

    reader, layout = TrainReader(config, plan, note), BatchLayout(config, plan, 0)
    for step in range(steps):
        planned = layout.planned(step)
        layout.read(planned, {setup.modality: [None] * options.batch}, reader)
    return samples


def first_difference(files: Files, options: Options) -> str | None:
    """What differs between our first batch of clips and the plain pipeline's, which must be equal to the byte."""
    if "video" not in files.manifests:
        return None
    setup = Setup(backend="pyav", modality="video", crop="recipe", workers=0)
    config = profile_config(files.manifests, {"video": options.batch}, crop="recipe", steps=1, workers=0)
    ours = MicroBatches(config, build_plan(config, world_size=1), 0)[0][0].groups[0].pixels
    plain = PlainDataset(plain_samples(files, setup, options, 1))
    for number, pixels in enumerate(ours):
        if not torch.equal(pixels, plain[number]):
            return f"clip {plain.samples[number].path.name}: pixels differ from the plain pipeline's"
    return None


def split(modality: str, files: Files, options: Options, *, cached: bool = False) -> dict[str, float]:
    """Milliseconds of one process for a sample, by stage, with the recipe's crop.

    Read: open the file and list its packets, or find it in the cache. Decode: to RGB frames. Transform: crop and resize
    into the batch. Pack: everything else, such as draws, masks and token tables.
    """
    config = profile_config(
        files.distinct if cached else files.manifests,
        {modality: options.batch},
        crop="recipe",
        steps=ENDLESS if cached else max(2, files.counts[modality] // options.batch),
        workers=0,
        caches=options.caches if cached else None,
    )
    forget_videos()
    plan = build_plan(config, world_size=1)
    batches = MicroBatches(config, plan, 0)
    seconds = dict.fromkeys(STAGES, 0.0)

    def timed(
        source: Source, row: int, order: str, out: Any, *, draw: Callable[[Media], Sequence[SampleDraw]]
    ) -> Sequence[SampleDraw]:
        start = time.perf_counter()
        media = open_sample(source, row, order)
        opened = time.perf_counter()
        draws = draw(media)
        scale = max(needed_scale(item, media.size, out.shape[2]) for item in draws)
        wanted = {index for item in draws for index in item.frame_indices}
        drawn = time.perf_counter()
        frames = media.frames(wanted, scale)
        decoded = time.perf_counter()
        for item, pixels in zip(draws, out, strict=True):
            apply_draw(frames, item, pixels)
        seconds["read"] += opened - start
        seconds["decode"] += decoded - drawn
        seconds["transform"] += time.perf_counter() - decoded
        return draws

    batches.reader = TrainReader(config, plan, timed)
    batches[0]
    seconds.update(dict.fromkeys(STAGES, 0.0))
    start, done = time.perf_counter(), 0
    while done + 1 < config.engine.steps and time.perf_counter() - start < options.seconds:  # type: ignore[operator]
        done += 1
        batches[done]
    total = time.perf_counter() - start
    seconds["pack"] = total - sum(seconds.values())
    return {stage: 1e3 * value / (done * options.batch) for stage, value in seconds.items()}


def medians(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    """Median of each stage."""
    return {stage: float(np.median([part[stage] for part in parts])) for stage in STAGES}
