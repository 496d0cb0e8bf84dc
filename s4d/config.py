"""The configuration of a run: names, types, defaults and checks of every field of the YAML files in `configs/`.

One YAML file is one complete run. Unknown keys are errors with a suggestion; derived numbers are computed in
`s4d.data.plan` and printed once. `load(path, overrides)` is the only way in.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from s4d.atomic_files import write_atomically
from s4d.config_data import DataConfig
from s4d.config_drift import Setting, settings
from s4d.config_loss import LossConfig
from s4d.config_overrides import ORIGIN, apply_overrides
from s4d.config_problems import describe
from s4d.config_recipes import not_released, with_recipe
from s4d.config_section import FREE, Modality, Section
from s4d.config_yaml import dump_yaml, read_yaml
from s4d.errors import UsageError

Weight = Annotated[float, Field(ge=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]

# As engine.watchdog.phases has them, and how long the watchdog of another node may be silent.
PHASES = ("start", "load", "data", "forward", "backward", "step", "evaluate", "save", "finish", "contact")


class MoaeConfig(Section):
    """Mixture of adapter experts, parallel to the dense MLP of the upper blocks."""

    num_experts: int = Field(default=8, ge=1, description="experts of a layer that are routed to")
    top_k: int = Field(default=2, ge=1, description="experts that serve one token")
    first_layer: int | None = Field(default=None, description="first block with experts; null: the upper half")
    hidden_ratio: float = Field(default=0.25, gt=0, description="expert width as a share of the model width")
    zero_init: bool = Field(
        default=True, description="zero-initialised up-projection: training starts at the dense model"
    )
    router_noise: Literal["off", "train", "always"] = Field(
        default="train", description="when scores of experts get learned noise; always: in evaluation too, as released"
    )
    capacity_factor: float | None = Field(
        default=None, gt=0, description="null: dropless; a number: the released token-order drop"
    )
    balance: Literal["switch", "release"] = Field(default="switch", description="formula of the load-balance term")
    balance_weight: float = Field(default=1e-2, ge=0, description="weight of the load-balance term; 0: off")
    lr_multiplier: float = Field(
        default=1.0, gt=0, description="learning rate of experts and routers relative to the head's"
    )
    layer_decay: bool = Field(
        default=False, description="apply layer-wise decay to experts and routers too, as released"
    )
    modality_prior: bool = Field(
        default=False, description="learn a bias of each router for still images and one for clips, 0 at first"
    )
    shared_experts: int = Field(
        default=0, ge=0, description="experts of each layer that serve every token, beside those that are routed to"
    )

    @model_validator(mode="after")
    def _top_k_fits(self) -> MoaeConfig:
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k {self.top_k} is larger than num_experts {self.num_experts}")
        return self

    @model_validator(mode="after")
    def _modalities_share_no_room(self) -> MoaeConfig:
        if self.modality_prior and self.capacity_factor is not None:
            raise ValueError("modality_prior routes each modality by itself, which needs capacity_factor null")
        return self


class ModelConfig(Section):
    """Architecture. `size` names a row of `s4d.models.sizes.SIZES`; the optional fields replace single values of it."""

    size: str = Field(default="base", description="name of a row of s4d.models.sizes.SIZES")
    embed_dim: int | None = Field(default=None, ge=1, description="width of the encoder; null: of the size")
    depth: int | None = Field(default=None, ge=1, description="blocks of the encoder; null: of the size")
    num_heads: int | None = Field(default=None, ge=1, description="attention heads; null: of the size")
    decoder_embed_dim: int | None = Field(default=None, ge=1, description="width of the decoder; null: of the size")
    decoder_depth: int | None = Field(default=None, ge=1, description="blocks of the decoder; null: of the size")
    decoder_num_heads: int | None = Field(default=None, ge=1, description="heads of the decoder; null: of the size")
    decoder: Literal["joint", "cross"] = Field(
        default="joint",
        description="joint: self-attention over visible and mask tokens; cross: each mask token attends to the visible "
        "ones alone",
    )
    image_size: int = Field(default=160, ge=16, description="pixels; height and width of every frame")
    num_frames: int = Field(default=16, ge=1, description="frames of a clip")
    patch_size: int = Field(default=16, ge=1, description="pixels; height and width of a token")
    tubelet_size: int = Field(default=2, ge=1, description="frames of a token")
    position_frames: int | None = Field(
        default=None, ge=1, description="frames spanned by the position table; null: num_frames"
    )
    drop_path: float = Field(
        default=0.0, ge=0, lt=1, description="largest drop-path rate, linear over depth, one draw per sequence"
    )
    init_from: str | None = Field(
        default=None, description="run folder, checkpoint folder or imported file with the initial weights"
    )
    init_final_norm: bool = Field(default=False, description="fill fc_norm from the pre-trained encoder norm")
    moae: MoaeConfig = MoaeConfig()

    @model_validator(mode="after")
    def _whole_patches(self) -> ModelConfig:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        if self.num_frames % self.tubelet_size:
            raise ValueError(f"num_frames {self.num_frames} is not a multiple of tubelet_size {self.tubelet_size}")
        return self

    @property
    def grid(self) -> tuple[int, int, int]:
        """Temporal slices, rows and columns of a clip's token grid."""
        side = self.image_size // self.patch_size
        return self.num_frames // self.tubelet_size, side, side


class BatchConfig(Section):
    """Global quotas of one optimizer step: views per source, over all ranks and accumulation."""

    per_step: dict[str, int] = Field(description="source name -> views in one optimizer step")
    accumulation: int = Field(
        default=1, ge=1, description="micro batches that a rank works through in one step", json_schema_extra=FREE
    )
    batching: Literal["packed", "alternate"] = Field(
        default="packed", description="alternate: one modality per step, as released"
    )
    loss_weights: dict[Modality, Weight] | None = Field(default=None, description="null: the released step shares")


class OptimConfig(Section):
    """AdamW and its schedule; pure functions of the step."""

    lr: float = Field(gt=0, description="peak learning rate at reference_batch samples a step")
    reference_batch: int | None = Field(
        default=None, ge=1, description="lr scales with batch / reference_batch; null: lr is final"
    )
    min_lr: float = Field(default=0.0, ge=0, description="learning rate at the end of the cosine")
    warmup_lr: float = Field(default=0.0, ge=0, description="learning rate of the first step of the warm-up")
    warmup_share: float = Field(default=0.05, ge=0, le=1, description="share of all steps spent warming up")
    betas: tuple[Decay, Decay] = Field(default=(0.9, 0.95), description="decays of the two moments")
    eps: float = Field(default=1e-8, gt=0, description="added to the root of the second moment")
    weight_decay: float = Field(default=0.05, ge=0, description="decoupled; decay_rule says of what")
    decay_rule: Literal["matrices", "release"] = Field(
        default="matrices",
        description="matrices: only tensors of two or more dimensions decay; release: also q/v bias and mask token",
    )
    layer_decay: float = Field(default=1.0, gt=0, le=1, description="learning rate times this for each layer down")
    max_grad_norm: float | None = Field(default=None, gt=0, description="gradients are scaled to it; null: no clipping")
    ema: float | None = Field(
        default=None, gt=0, lt=1, description="decay of the moving average of the weights; null: off"
    )


class EngineConfig(Section):
    """How the run is executed."""

    zero_stage: Literal[0, 1, 2, 3] = Field(
        default=1,
        description="what ranks share: 0 nothing, 1 optimizer state, 2 and gradients, 3 and weights",
        json_schema_extra=FREE,
    )
    offload: Literal["none", "optimizer", "parameters"] = Field(
        default="none",
        description="keep fp32 weights and moments in host memory, where AdamW then runs (optimizer; ZeRO 1 to 3), "
        "and the sharded weights too (parameters; ZeRO 3)",
        json_schema_extra=FREE,
    )
    precision: Literal["fp32", "bf16"] = Field(default="bf16", description="of weights and activations in the step")
    recompute: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of the layers, spread evenly, whose forward is done again in the backward: less memory, "
        "more time, the same results",
        json_schema_extra=FREE,
    )
    step_graph: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="replay forward and backward as CUDA graphs; auto: on a GPU without ZeRO, where nothing forbids it",
        json_schema_extra=FREE,
    )
    epochs: int | None = Field(default=None, ge=1, description="passes over the sources at their rates; or give steps")
    steps: int | None = Field(default=None, ge=1, description="optimizer steps in all; instead of epochs")
    log_every: int = Field(default=10, ge=1, description="steps between lines of the log", json_schema_extra=FREE)
    save_every: int | None = Field(
        default=None, ge=1, description="steps between checkpoints; null: only at the end", json_schema_extra=FREE
    )
    keep_last: int = Field(default=2, ge=1, description="newest checkpoints that are kept", json_schema_extra=FREE)
    keep_every: int | None = Field(
        default=None, ge=1, description="also keep checkpoints of steps divisible by this", json_schema_extra=FREE
    )
    keep_best: str | None = Field(
        default=None,
        description="also keep the checkpoint with the largest score of this name, for example dfew.uar",
        json_schema_extra=FREE,
    )
    save_failures: int = Field(
        default=0,
        ge=0,
        description="checkpoints in a row that the disk may refuse, with a warning each, before the run ends",
        json_schema_extra=FREE,
    )
    skip_nonfinite: int = Field(
        default=3,
        ge=0,
        description="steps in a row with NaN or infinity that are left out, with a line each, before the run ends",
        json_schema_extra=FREE,
    )
    eval_every: int | None = Field(
        default=None, ge=1, description="steps between evaluations; null: only at the end", json_schema_extra=FREE
    )
    backends: dict[str, str] = Field(default={}, description="op -> backend, for example {attention: reference}")
    phase_seconds: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default={},
        description=f"seconds a rank may be silent before the run is ended, over the defaults: {', '.join(PHASES)}",
        json_schema_extra=FREE,
    )

    @field_validator("phase_seconds")
    @classmethod
    def _phases_exist(cls, value: dict[str, float]) -> dict[str, float]:
        for name in value:
            if name not in PHASES:
                raise ValueError(f"unknown phase {name!r}; the phases are {', '.join(PHASES)}")
        return value

    @model_validator(mode="after")
    def _one_length(self) -> EngineConfig:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give exactly one of epochs and steps")
        return self

    @model_validator(mode="after")
    def _offload_has_shards(self) -> EngineConfig:
        least = {"none": 0, "optimizer": 1, "parameters": 3}[self.offload]
        if self.zero_stage < least:
            raise ValueError(f"offload {self.offload!r} needs zero_stage {least} or more, got {self.zero_stage}")
        return self

    @model_validator(mode="after")
    def _best_has_scores(self) -> EngineConfig:
        # A checkpoint is judged by an evaluation of its own step alone.
        scored = self.save_every and self.eval_every and self.save_every % self.eval_every == 0
        if self.keep_best is not None and not scored:
            raise ValueError("keep_best needs eval_every, and save_every as a multiple of it")
        return self


class EvalConfig(Section):
    """Evaluation of the finished model."""

    protocol: Literal["held-out", "release"] = Field(
        default="held-out", description="release: select on the test split"
    )
    temporal_views: int = Field(default=2, ge=1, description="distinct windows that together cover the whole clip")
    spatial_views: int = Field(default=1, ge=1, description="crops along the longer side of a clip's frames")
    batch_size: int = Field(
        default=16,
        ge=1,
        description="clips per rank and forward; images use four times as many",
        json_schema_extra=FREE,
    )
    frame_baseline: bool = Field(
        default=False, description="also score clips by their best single frame repeated", json_schema_extra=FREE
    )


class Config(Section):
    """One complete run."""

    name: str = Field(description="what reports call the run", json_schema_extra=FREE)
    run_dir: str = Field(min_length=1, description="folder of everything that the run writes", json_schema_extra=FREE)
    seed: int = Field(default=0, description="of the first weights, the order and all draws")
    task: Literal["pretrain", "finetune"] = Field(description="masked reconstruction, or classification")
    mode: Literal["single", "multitask", "moae"] = Field(
        default="moae", description="fine-tuning: one source, no experts, experts"
    )
    recipe: Literal["s4d", "release"] = Field(default="s4d", description="whose defaults: ours, or the released code's")
    model: ModelConfig = ModelConfig()
    data: DataConfig
    batch: BatchConfig
    optim: OptimConfig
    loss: LossConfig = LossConfig()
    engine: EngineConfig
    evaluation: EvalConfig = EvalConfig()

    @model_validator(mode="after")
    def _parts_agree(self) -> Config:
        problem = self._quota_problem() or self._modality_problem() or self._task_problem() or self._loss_problem()
        if problem:
            raise ValueError(problem)
        return self

    def settings(self) -> dict[str, Setting]:
        """Every field, with what a continuation of the run needs to know about it; see `s4d.config_drift`."""
        return settings(self)

    def _quota_problem(self) -> str | None:
        names = [source.name for source in self.data.sources]
        if set(self.batch.per_step) != set(names):
            return f"batch.per_step: expected one entry per source {sorted(names)}, got {sorted(self.batch.per_step)}"
        mixed = self.data.mix.mixup_alpha > 0 or self.data.mix.cutmix_alpha > 0
        for source in self.data.sources:
            quota, unit = self.batch.per_step[source.name], self.batch.accumulation * (2 if mixed else 1)
            if quota < 1 or quota % unit or quota % source.views:
                return (
                    f"batch.per_step.{source.name}: expected a positive multiple of {unit} (accumulation"
                    f"{', in pairs for mixup' if mixed else ''}) and of views {source.views}, got {quota}"
                )
        return None

    def _modality_problem(self) -> str | None:
        modalities = {source.modality for source in self.data.sources}
        for field, given in (
            ("batch.loss_weights", self.batch.loss_weights),
            ("data.mask_ratio", self.data.mask_ratio),
            ("data.decode_ratio", self.data.decode_ratio),
        ):
            if given is not None and not modalities <= set(given):
                return f"{field}: expected an entry for each of {sorted(modalities)}, got {sorted(given)}"
        if self.evaluation.frame_baseline and "video" not in modalities:
            return "evaluation.frame_baseline: needs a video source"
        if self.evaluation.protocol == "release" and self.data.val_share > 0:
            return "data.val_share: must be 0 with evaluation.protocol release, which selects on the test split"
        return None

    def _loss_problem(self) -> str | None:
        if self.recipe == "release" and (added := not_released(self)) is not None:
            return f"{added}: the released method has no such thing; it is for recipe s4d"
        modalities = {source.modality for source in self.data.sources}
        return self.loss.problem(self.task, modalities, self.model.tubelet_size)

    def _task_problem(self) -> str | None:
        if self.task == "finetune":
            if self.mode == "single" and len(self.data.sources) != 1:
                return f"mode: single takes one source, got {len(self.data.sources)}"
            return None
        for index, source in enumerate(self.data.sources):
            if source.classes is not None:
                return f"data.sources.{index}.classes: pre-training has no heads"
            if source.sampling != "natural":
                return f"data.sources.{index}.sampling: pre-training reads no labels, only natural sampling is possible"
        mix = self.data.mix
        if mix.mixup_alpha > 0 or mix.cutmix_alpha > 0 or mix.label_smoothing > 0:
            return "data.mix: pre-training has no labels to mix or smooth"
        if self.evaluation.frame_baseline:
            return "evaluation.frame_baseline: pre-training has no heads"
        return None


def load(path: Path | str, overrides: list[str] | None = None) -> Config:
    """Read one YAML file, apply dotted `key=value` overrides and check it; UsageError names file and field."""
    values = read_yaml(path)
    keys = apply_overrides(values, overrides or [])
    try:
        # The JSON route of the validator is strict about types but takes lists for tuples and whole numbers for floats.
        return Config.model_validate_json(json.dumps(with_recipe(values)), strict=True)
    except ValidationError as error:
        raise UsageError(describe(error, Config, str(path), (ORIGIN, keys))) from error


@contextmanager
def blamed_on(path: Path | str, overrides: list[str]) -> Iterator[None]:
    """Put the origin of the configuration in front of a UsageError that names only a field of it."""
    try:
        yield
    except UsageError as error:
        keys = [text.partition("=")[0].strip() for text in overrides]
        origin = ORIGIN if any(str(error).startswith(key) for key in keys) else path
        raise UsageError(f"{origin}: {error}") from error


def save(config: Config, path: Path | str) -> None:
    """Write the resolved configuration as YAML that `load` reads back to an equal `Config`."""
    write_atomically(path, dump_yaml(config.model_dump(mode="json")))
