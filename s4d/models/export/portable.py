"""A model of ours as one plain function of pixels, of fixed shapes and of torch's own operations.

Letters: n samples, F frames, S pixels a side, T tokens of a sample, D width, K classes.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kernels.backends import environment_variable
from s4d.data.batch import PackedBatch
from s4d.errors import UsageError
from s4d.inference.packed_views import pack_views
from s4d.models.build import build_finetune
from s4d.models.classifier import FinetuneModel
from s4d.models.export.source import Source
from s4d.models.sizes import Architecture
from s4d.models.stream import all_segments
from s4d.models.vit import embed_groups

# Nothing but torch's operations, whose shapes do not depend on values.
BACKENDS = {"attention": "sdpa", "moae": "reference", "patch": "reference"}


class FixedInput(nn.Module):
    """Frames (n, F, S, S, 3) uint8 to logits (n, K) of one head, or to the tokens (n, T, D) behind the last block."""

    def __init__(self, model: FinetuneModel, head: str | None, batch: PackedBatch, norm: nn.Module | None) -> None:
        super().__init__()
        self.model = model
        self.head = head
        self.norm = norm
        self.batch = batch
        self.names = [
            field.name for field in dataclasses.fields(batch) if isinstance(getattr(batch, field.name), Tensor)
        ]
        for name in self.names:
            self.register_buffer(f"batch_{name}", getattr(batch, name), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """`frames` has the one shape that the module was made for."""
        group = dataclasses.replace(self.batch.groups[0], pixels=frames)
        tensors = {name: getattr(self, f"batch_{name}") for name in self.names}
        batch = dataclasses.replace(self.batch, groups=(group,), **tensors)
        if self.head is not None:
            logits: Tensor = self.model(batch).logits[self.head]
            return logits
        return self._tokens(batch)

    def _tokens(self, batch: PackedBatch) -> Tensor:
        tokens = embed_groups(self.model.patch_embed, batch)
        x = tokens + self.model.positions[batch.positions].to(tokens.dtype)
        groups = (0, 0, x.shape[0]) if batch.groups[0].modality == "video" else (0, x.shape[0], x.shape[0])
        for block in self.model.blocks:
            x, _ = block(x, all_segments(batch), None, None, groups)
        if self.norm is not None:
            x = self.norm(x)
        return x.view(batch.num_sequences, -1, x.shape[-1])


def fixed_program(
    source: Source,
    head: str | None,
    modality: str,
    *,
    batch: int,
    features: bool = False,
    backends: Mapping[str, str] | None = None,
) -> FixedInput:
    """The module in evaluation mode: logits of `head`, or with `features` and for models without heads the tokens.

    Without `backends` it is the model as an evaluation here runs it. Routers that keep their noise in evaluation are
    used without: it depends on the names of the samples, which a program is not given.
    """
    arch = source.arch
    if arch.experts is not None and arch.experts.router_noise == "always":
        arch = dataclasses.replace(arch, experts=dataclasses.replace(arch.experts, router_noise="train"))
    heads = {head: len(source.classes[head])} if head else {}
    model = build_finetune(arch, heads, seed=0, backends=backends).eval()
    prefix = "" if source.stage == "finetune" else "encoder."
    wanted = set(model.state_dict())
    norm = None
    if prefix:
        norm = model.fc_norm
        wanted -= {"fc_norm.weight", "fc_norm.bias"}
        for kind in ("weight", "bias"):
            if f"encoder.norm.{kind}" not in source.tensors:
                raise UsageError(f"{source.folder}: an encoder without its final norm cannot be exported as a program")
            getattr(norm, kind).data.copy_(source.tensors[f"encoder.norm.{kind}"])
    model.load_state_dict({name: source.tensors[prefix + name] for name in wanted}, strict=not prefix)
    return FixedInput(model, None if features else head, _batch(arch, modality, batch), norm).eval()


def _batch(arch: Architecture, modality: str, count: int) -> PackedBatch:
    frames = 1 if modality == "image" else arch.num_frames
    black = torch.zeros(frames, arch.image_size, arch.image_size, 3, dtype=torch.uint8).numpy()
    return pack_views([black] * count, [0] * count, modality=modality, arch=arch, seed=0)


@contextmanager
def portable_plan() -> Iterator[None]:
    """Routing plans by torch's operations, whatever the environment asks for: they have no argument of their own."""
    name = environment_variable("moae_plan")
    before = os.environ.get(name)
    os.environ[name] = "portable"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
