"""What a configuration asks of a cluster: kinds of steps with their samples, how many of each, and the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from s4d.config import Config
from s4d.config_data import SourceConfig
from s4d.config_section import Modality
from s4d.data.masking import decoded_count, masked_count
from s4d.data.plan import SamplePlan
from s4d.data.sources import Source, head_classes, load_source
from s4d.errors import UsageError
from s4d.models.classifier import FinetuneModel
from s4d.models.mae import PretrainModel
from s4d.models.sizes import Architecture, architecture

# Classes of a head whose configuration and manifest do not say them.
ASSUMED_CLASSES = 7


@dataclass(frozen=True, kw_only=True, slots=True)
class StepKind:
    """Samples by modality of one kind of step, over all ranks, and how many such steps a run has (None: unknown)."""

    samples: Mapping[str, int]
    steps: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """The model with its weights' sizes, the kinds of steps, and the tokens of one sample that the encoder sees
    and, in pre-training, those that are predicted.

    `quotas` are the views of each source in a step, `assumed` says what had to be guessed, a line each. Layers
    `recomputed`, the decoder's after the encoder's, are done again in the backward.
    """

    arch: Architecture
    task: str
    precision: str
    sizes: tuple[int, ...]
    classes: int
    kinds: tuple[StepKind, ...]
    kept: Mapping[str, int]
    decoded: Mapping[str, int]
    quotas: Mapping[str, int]
    mixed: bool
    counted_twice: bool
    assumed: tuple[str, ...]
    recomputed: frozenset[int] = frozenset()

    @property
    def layers(self) -> int:
        """Blocks of the encoder and, in pre-training, of the decoder."""
        return self.arch.depth + (self.arch.decoder_depth if self.task == "pretrain" else 0)

    @property
    def steps(self) -> int | None:
        """Optimizer steps of the run, None if unknown."""
        counts = [kind.steps for kind in self.kinds]
        return None if None in counts else sum(count or 0 for count in counts)


def read_recipe(config: Config, counts: Mapping[str, int]) -> Recipe:
    """The recipe of a configuration; `counts` are training samples by source where they are not read from manifests."""
    if unknown := sorted(set(counts) - {source.name for source in config.data.sources}):
        raise UsageError(f"--samples: no source {unknown[0]!r}; expected {', '.join(config.batch.per_step)}")
    assumed: list[str] = []
    heads = _heads(config, assumed)
    arch = architecture(config.model, experts=config.task == "finetune" and config.mode == "moae")
    moae = config.model.moae
    assumed += _uncounted(config, arch)
    return Recipe(
        arch=arch,
        task=config.task,
        precision=config.engine.precision,
        sizes=_sizes(arch, config.task, heads),
        classes=sum(heads.values()),
        kinds=_kinds(config, counts, assumed),
        kept={source.modality: _kept(config, arch, source.modality) for source in config.data.sources},
        decoded={source.modality: _decoded(config, arch, source.modality) for source in config.data.sources},
        quotas=dict(config.batch.per_step),
        mixed=config.data.mix.mixup_alpha > 0 or config.data.mix.cutmix_alpha > 0,
        counted_twice=arch.experts is not None and moae.balance == "switch" and moae.balance_weight > 0,
        assumed=tuple(assumed),
    )


def _kept(config: Config, arch: Architecture, modality: Modality) -> int:
    """Tokens of a sample that the encoder sees."""
    tokens = arch.tokens(modality)
    hidden = masked_count(tokens, config.data.mask_ratio[modality]) if config.task == "pretrain" else 0
    return tokens - hidden


def _decoded(config: Config, arch: Architecture, modality: Modality) -> int:
    """Tokens of a sample that the decoder predicts."""
    return decoded_count(arch.tokens(modality) - _kept(config, arch, modality), config.data.decode_ratio[modality])


def _uncounted(config: Config, arch: Architecture) -> list[str]:
    """What a run adds to the method and no model here has all of."""
    keys = ["loss.motion"]
    if arch.experts is not None:
        keys += ["model.moae.modality_prior", "model.moae.shared_experts"]
    used = [key for key in keys if reduce(getattr, key.split("."), config)]
    return [f"what {key} adds to the memory and time of a step is not counted in full" for key in used]


def _heads(config: Config, assumed: list[str]) -> dict[str, int]:
    if config.task != "finetune":
        return {}
    if all(Path(source.manifest).is_file() for source in config.data.sources):
        return {name: len(classes) for name, classes in head_classes(config).items()}
    heads = {}
    for source in config.data.sources:
        known = isinstance(source.classes, list)
        heads[source.name] = len(source.classes or ()) if known else ASSUMED_CLASSES
        if not known:
            assumed.append(f"the head of {source.name} has {ASSUMED_CLASSES} classes: its manifest is not here")
    return heads


def _sizes(arch: Architecture, task: str, heads: dict[str, int]) -> tuple[int, ...]:
    with torch.device("meta"):
        model: nn.Module = PretrainModel(arch) if task == "pretrain" else FinetuneModel(arch, heads)
    return tuple(parameter.numel() for parameter in model.parameters())


def _kinds(config: Config, counts: Mapping[str, int], assumed: list[str]) -> tuple[StepKind, ...]:
    """As the sample plan of a run has them, made from the numbers of samples alone."""
    found = {source.name: _samples(config, source, counts) for source in config.data.sources}
    unknown = [name for name, count in found.items() if count is None]
    ordered = sorted(config.data.sources, key=lambda source: source.modality != "image")
    sources = [_counted(source, found[source.name] or config.batch.per_step[source.name]) for source in ordered]
    plan = SamplePlan(config, sources, world_size=1)
    samples = plan.samples_per_step()
    total = None if unknown and config.engine.epochs is not None else plan.total_steps
    if total is None:
        assumed.append(f"hours are unknown without the samples of {', '.join(unknown)}: --samples {unknown[0]}=COUNT")
    if not plan.alternate:
        return (StepKind(samples=samples, steps=total),)
    if unknown and total is not None:
        assumed.append("steps of all modalities are as many: --samples says in what proportion they alternate")
        shares = dict.fromkeys(samples, 1.0 / len(samples))
    else:
        shares = {name: steps / plan.steps_per_epoch for name, steps in plan.modality_steps.items()}
    return tuple(
        StepKind(samples={name: count}, steps=None if total is None else round(total * shares[name]))
        for name, count in samples.items()
    )


def _samples(config: Config, source: SourceConfig, counts: Mapping[str, int]) -> int | None:
    """Training samples of a source: as given, else of its manifest, else None."""
    if source.name in counts:
        return counts[source.name]
    if Path(source.manifest).is_file():
        return len(load_source(config, source.name, "train").rows)
    return None


def _counted(source: SourceConfig, count: int) -> Source:
    """A source of which only the number of samples is known."""
    numbers = cast(Any, range(count))
    return Source(config=source, rows=numbers, labels=numbers, classes=(), root=Path(), fingerprint="")
