"""What a step holds: samples, tokens and work of its micro batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kernels.launch import Work
from s4d.analysis.step_work import PARTS, PartWork, step_work
from s4d.data.batch import PackedBatch
from s4d.models.sizes import Architecture
from s4d.models.stream import group_tokens, masked_layout

ELEMENT_BYTES = {"bf16": 2, "fp32": 4}
# AdamW moves weight, both moments in fp32 both ways and the gradient once; bf16 training writes its weights too.
OPTIMIZER_BYTES = {"bf16": 30, "fp32": 28}


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """Per step: samples by modality, tokens of all samples, tokens that the encoder sees, and work by part."""

    samples: dict[str, float]
    tokens: float
    visible: float
    work: dict[str, PartWork]

    @property
    def flops(self) -> float:
        """FLOPs of the model, forward and backward."""
        return sum(part.forward.flops + part.backward.flops for part in self.work.values())


def batch_load(arch: Architecture, task: str, precision: str, classes: int, batch: PackedBatch) -> Load:
    """Of one micro batch; `classes` are those of all heads together."""
    samples: dict[str, int] = {}
    kept: dict[str, int] = {}
    decoded: dict[str, int] = {}
    seen, wanted = group_tokens(batch, batch.layout_visible), group_tokens(batch, masked_layout(batch))
    for group, tokens, asked in zip(batch.groups, seen, wanted, strict=True):
        count = group.pixels.shape[0]
        samples[group.modality] = samples.get(group.modality, 0) + count
        kept[group.modality], decoded[group.modality] = tokens // count, asked // count
    size = ELEMENT_BYTES[precision]
    work = step_work(arch, task, samples, kept, decoded=decoded, element_bytes=size, classes=classes)
    return Load(
        samples={name: float(count) for name, count in samples.items()},
        tokens=float(sum(group_tokens(batch, batch.layout))),
        visible=float(sum(seen)),
        work=work,
    )


def mean_load(steps: Sequence[Sequence[Load]]) -> Load:
    """Of the mean step; each is a sequence of micro batches."""
    loads = [load for step in steps for load in step]
    share = 1 / len(steps)
    samples: Counter[str] = Counter()
    for load in loads:
        samples.update(load.samples)
    return Load(
        samples={name: count * share for name, count in samples.items()},
        tokens=sum(load.tokens for load in loads) * share,
        visible=sum(load.visible for load in loads) * share,
        work={part: _scaled([load.work for load in loads], part, share) for part in PARTS},
    )


def _scaled(works: Sequence[Mapping[str, PartWork]], part: str, share: float) -> PartWork:
    def mean(phase: str) -> Work:
        found = [getattr(work[part], phase) for work in works]
        return Work(flops=share * sum(w.flops for w in found), bytes=share * sum(w.bytes for w in found))

    return PartWork(forward=mean("forward"), backward=mean("backward"))
