"""Joint masked reconstruction of face images and videos."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import s4d
from s4d.config import Config
from s4d.data.batch import PackedBatch
from s4d.data.input_recipe import input_recipe
from s4d.data.masking import decoded_count, masked_count
from s4d.errors import UsageError
from s4d.models.build import build_pretrain
from s4d.models.compiled import choose_forwards
from s4d.models.sizes import Architecture, architecture
from s4d.models.stream import group_tokens, masked_layout
from s4d.models.weights import load_initial
from s4d.tasks.base import StepOutput
from s4d.tasks.layers import encoder_layer
from s4d.tasks.reconstructions import Reconstructor


class PretrainTask:
    """Loss: sum over modalities of weight x mean over the step's tokens to predict of that modality.

    Where `config.loss.motion` is on, clips have its multiple of the error in the change between frames beside theirs.
    """

    def __init__(
        self,
        config: Config,
        weights: Mapping[str, float],
        classes: Mapping[str, tuple[str, ...]],
        *,
        rank: int,
        world_size: int,
        device: torch.device,
        crops: Mapping[str, str] | None = None,
        origins: Mapping[str, Any] | None = None,
    ) -> None:
        if classes:
            raise ValueError(f"classes: pre-training has no heads, got {sorted(classes)}")
        self.config = config
        self.weights = dict(weights)
        self.crops = dict(crops or {})
        self.origins = dict(origins or {})
        arch = architecture(config.model, experts=False)
        _check_masks(config, arch)
        model = build_pretrain(arch, config.seed, config.engine.backends)
        if config.model.init_from is not None:
            load_initial(model, Path(config.model.init_from))
        self.arch = model.arch
        self._reconstructor = Reconstructor(config, self.arch, rank=rank, world_size=world_size, device=device)
        choose_forwards(model, config.engine.backends.get("blocks"), zero_stage=config.engine.zero_stage)
        self.module: nn.Module = model.to(device)

    def begin_step(self, module: nn.Module, batches: list[PackedBatch]) -> None:
        """Nothing: exact-count masks make the normalisers a function of the batch sizes."""

    def forward(self, module: nn.Module, batch: PackedBatch, statistics: None = None) -> StepOutput:
        """This batch's share of the step's loss."""
        motion = self.config.loss.motion
        sums: dict[str, Tensor] = module(batch, motion=True) if motion > 0 else module(batch)
        changes = sums.pop("motion", None)
        masked = _masked_per_sample(batch)
        shares = {name: total / (batch.step_samples[name] * masked[name]) for name, total in sums.items()}
        terms = [self.weights[name] * share for name, share in shares.items()]
        parts = {f"loss/{name}": share.detach() for name, share in shares.items()}
        if changes is not None:
            share = changes / (batch.step_samples["video"] * masked["video"])
            terms.append(self.weights["video"] * motion * share)
            parts["motion/video"] = share.detach()
        return StepOutput(loss=torch.stack(terms).sum(), parts=parts, metrics={})

    @property
    def forward_has_collectives(self) -> bool:
        """Never."""
        return False

    def evaluate(self, module: nn.Module, split: str) -> dict[str, float]:
        """Nothing: pre-training is judged by its reconstructions and by fine-tuning."""
        return {}

    def finish(self, module: nn.Module, run_dir: Path, weights: str) -> dict[str, float]:
        """Write a few reconstructions of each modality for the report."""
        name = "reconstructions.npz" if weights == "last" else f"reconstructions-{weights}.npz"
        self._reconstructor.write(module, run_dir / name)
        return {}

    def describe(self) -> dict[str, Any]:
        """Content of a checkpoint's config.json."""
        return {
            "stage": "pretrain",
            "architecture": self.arch.to_dict(),
            "classes": {},
            "inputs": {source.name: input_recipe(self.config, source).to_dict() for source in self.config.data.sources},
            "crop": self.crops,
            **self.origins,
            "loss_weights": self.weights,
            "version": s4d.__version__,
        }

    def layer_of(self, parameter_name: str) -> int | None:
        """Depth in the encoder; the decoder's parameters have none."""
        prefix, _, rest = parameter_name.partition("encoder.")
        return encoder_layer(rest, self.arch.depth) if not prefix else None

    def lr_multiplier(self, parameter_name: str) -> float:
        """Every parameter learns at the same rate."""
        return 1.0

    @property
    def num_layers(self) -> int:
        """Depth of the final norm."""
        return self.arch.depth + 1


def _check_masks(config: Config, arch: Architecture) -> None:
    for modality in {source.modality for source in config.data.sources}:
        ratio, tokens = config.data.mask_ratio[modality], arch.tokens(modality)
        masked = masked_count(tokens, ratio)
        if not 0 < masked < tokens:
            raise UsageError(f"data.mask_ratio.{modality}: {ratio:g} hides {masked} of {tokens} tokens")
        share = config.data.decode_ratio[modality]
        if decoded_count(masked, share) < 1:
            raise UsageError(f"data.decode_ratio.{modality}: {share:g} leaves 0 of {masked} masked tokens to predict")


def _masked_per_sample(batch: PackedBatch) -> dict[str, int]:
    """Tokens to predict in one sample of each modality of the batch, the same in all of them."""
    counts: dict[str, int] = {}
    for group, masked in zip(batch.groups, group_tokens(batch, masked_layout(batch)), strict=True):
        count, rest = divmod(masked, group.pixels.shape[0])
        if rest or counts.setdefault(group.modality, count) != count:
            raise ValueError(f"batch: expected one number of masked tokens in every {group.modality} sample")
    return counts
