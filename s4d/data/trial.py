"""Tries a decoding backend on the first samples of a run: does it decode them, and how fast."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from s4d.config import Config
from s4d.data import current_file, decode_torchcodec
from s4d.data.micro_batches import READERS, BatchLayout, Planned
from s4d.data.plan import SamplePlan
from s4d.data.reading import TrainReader
from s4d.errors import UsageError

SAMPLES = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What was found out about one backend: views of the run's own mix a second, or why it cannot be used.

    `read_seconds` is the time of one decoding process for a view, `decode_seconds` that of the GPU's own stage (0 where
    the decoding process does it all); `views_per_second` is for all decoding processes of a rank together.
    """

    backend: str
    views_per_second: float = 0.0
    read_seconds: float = 0.0
    decode_seconds: float = 0.0
    refusal: str | None = None

    def __str__(self) -> str:
        if self.refusal is not None:
            return f"{self.backend} refused: {self.refusal}"
        return f"{self.backend} {self.views_per_second:.0f} views/s"


def refusal(backend: str) -> str | None:
    """Why a backend cannot be used in this process whatever the files are; None where it can."""
    if backend == "pyav":
        return None
    if backend == "torchcodec":
        return decode_torchcodec.refusal()
    try:
        import nvidia.dali.fn  # noqa: F401
    except Exception as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        return f"cannot be imported ({line}); pip install 's4d-engine[dali-cu13]' brings it"
    return None


def try_backend(
    backend: str, config: Config, plan: SamplePlan, rank: int, device: torch.device, samples: int = SAMPLES
) -> Trial:
    """Decode the first samples of each source twice, to a device's memory, and time the second go.

    DataError where a file cannot be read, as in a run; that a backend lacks a codec is a refusal.
    Opening a video lists its packets, which is remembered: on sets far larger than that memory reading costs more.
    """
    reason = refusal(backend)
    if reason is not None:
        return Trial(backend=backend, refusal=reason)
    planned = _first(BatchLayout(config, plan, rank), samples)
    try:
        if backend in READERS:
            return _try_reader(backend, config, plan, planned, device)
        return _try_dali(config, plan, planned, device)
    except UsageError as error:
        return Trial(backend=backend, refusal=str(error).removeprefix(f"data.backend: {backend}: "))


def _first(layout: BatchLayout, samples: int) -> Planned:
    """Views of the first `samples` of each source, or of those in as many micro batches."""
    sources = layout.plan.sources
    found: Planned = [[] for _ in sources]
    wanted = [samples * source.config.views for source in sources]
    for index in range(min(samples, layout.plan.total_steps * layout.plan.accumulation)):
        for number, views in enumerate(layout.planned(index)):
            found[number].extend(views[: wanted[number] - len(found[number])])
        if [len(views) for views in found] == wanted:
            break
    return found


def _try_reader(backend: str, config: Config, plan: SamplePlan, planned: Planned, device: torch.device) -> Trial:
    reader = TrainReader(config, plan, READERS[backend])
    layout = BatchLayout(config, plan, 0)
    shapes = layout.shapes(planned, reader)
    room = _room(shapes, torch.device("cpu"))
    seconds = 0.0
    for _ in range(2):
        begin = time.perf_counter()
        layout.read(planned, {modality: tensor.numpy() for modality, tensor in room.items()}, reader)
        current_file.finished()
        for tensor in room.values():
            tensor.to(device)
        seconds = time.perf_counter() - begin
    return _trial(backend, config, planned, seconds, 0.0)


def _try_dali(config: Config, plan: SamplePlan, planned: Planned, device: torch.device) -> Trial:
    from s4d.data.dali.decoder import Decoder
    from s4d.data.dali.drafts import Drafts

    on_cpu = device.type == "cpu"
    drafts = Drafts(config, plan, 0, on_cpu=on_cpu)
    decoder = Decoder(device, config.model.image_size)
    read, decode = 0.0, 0.0
    try:
        for _ in range(2):
            begin = time.perf_counter()
            found = drafts.collect(planned, {})
            current_file.finished()
            middle = time.perf_counter()
            problems = decoder.fill(found.files, found.encoded, _room(found.shapes, device))
            read, decode = middle - begin, time.perf_counter() - middle
            # A damaged file is no fault of the backend; all files of a kind are.
            for video in (True, False):
                samples = {file.sample for file in found.files if file.video == video}
                if samples and samples <= set(problems):
                    return Trial(backend="dali", refusal=problems[min(samples)])
    finally:
        decoder.close()
    return _trial("dali", config, planned, read + decode if on_cpu else read, 0.0 if on_cpu else decode)


def _room(shapes: dict[str, tuple[int, ...]], device: torch.device) -> dict[str, Tensor]:
    return {modality: torch.empty(shape, dtype=torch.uint8, device=device) for modality, shape in shapes.items()}


def _trial(backend: str, config: Config, planned: Planned, read: float, decode: float) -> Trial:
    """Decoding processes work side by side, and beside the GPU's own stage; the slower of the two sets the pace."""
    views = sum(map(len, planned))
    pace = max(read / max(1, config.data.workers), decode)
    return Trial(
        backend=backend,
        views_per_second=views / pace,
        read_seconds=read / views,
        decode_seconds=decode / views,
    )
