"""From a draft to a batch: pixels by DALI, colours, and another draft where a file turns out not to decode."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator

import torch
from torch import Tensor

from s4d.config import Config
from s4d.data.buffers import pixel_buffer
from s4d.data.color import apply_colors
from s4d.data.dali.decoder import Decoder
from s4d.data.dali.drafts import Draft, Drafts, Sample
from s4d.data.micro_batches import Built
from s4d.data.plan import SamplePlan
from s4d.data.upload import uploaded


class Finisher:
    """Turns drafts into batches whose pixels are on `device`; remembers files that do not decode."""

    def __init__(self, drafts: Drafts, device: torch.device) -> None:
        self.drafts = drafts
        self.device = device
        self.decoder = Decoder(device, drafts.config.model.image_size)
        self._undecodable: dict[Sample, str] = {}

    def __call__(self, draft: Draft) -> Built:
        """The batch and the files that were replaced in it; DataError where `data.on_error` says so."""
        if any(file.sample in self._undecodable for file in draft.files):
            draft = self.drafts.draft(draft.index, self._undecodable)
        while True:
            pixels = {modality: self._room(shape) for modality, shape in draft.shapes.items()}
            found = self.decoder.fill(draft.files, draft.encoded, pixels)
            if not found:
                break
            self._undecodable.update(found)
            draft = self.drafts.draft(draft.index, self._undecodable)
        for modality, draws in draft.draws.items():
            for view, draw in zip(pixels[modality], draws, strict=True):
                apply_colors(view, draw)
        groups = tuple(dataclasses.replace(group, pixels=pixels[group.modality]) for group in draft.batch.groups)
        return dataclasses.replace(draft.batch, groups=groups), draft.skipped

    def close(self) -> None:
        """Free what DALI holds."""
        self.decoder.close()

    def _room(self, shape: tuple[int, ...]) -> Tensor:
        if self.device.type == "cpu":
            return pixel_buffer(shape)
        return torch.empty(shape, dtype=torch.uint8, device=self.device)


class DaliMicroBatches:
    """Micro batches decoded by DALI where they are asked for; any process can build any one."""

    def __init__(self, config: Config, plan: SamplePlan, rank: int) -> None:
        self.drafts = Drafts(config, plan, rank, on_cpu=True)
        self._finisher: Finisher | None = None

    def __getitem__(self, index: int) -> Built:
        """The packed batch, and the files that could not be read for it."""
        if self._finisher is None:
            self._finisher = Finisher(self.drafts, torch.device("cpu"))
        return self._finisher(self.drafts[index])


def finished(drafts: Generator[Draft, None, None], finisher: Finisher) -> Generator[Built, None, None]:
    """The batches of a stream of drafts, decoded in a thread of this process while the step before them computes."""
    batches = uploaded(drafts, finisher, finisher.device)
    try:
        yield from batches
    finally:
        batches.close()
        finisher.close()
