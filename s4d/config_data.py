"""The part of the configuration about data: datasets, and how their samples become pixels."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from s4d.config_section import FREE, Modality, Section, alike

Share = Annotated[float, Field(gt=0, lt=1)]
Ratio = Annotated[float, Field(gt=0)]
Part = Annotated[float, Field(gt=0, le=1)]


class AugmentConfig(Section):
    """Random changes to one modality's training samples; what is null or 0 is off."""

    resize: Literal["square", "short_side"] = Field(
        default="short_side", description="square ignores the aspect, as released"
    )
    resize_to: int | None = Field(
        default=None, ge=1, description="pixels before the crop; null: crop straight from the decoded frame"
    )
    crop: Literal["random_resized", "random", "center"] = Field(
        default="random_resized", description="random_resized: a box of random area and aspect; else a square"
    )
    crop_area: tuple[Part, Part] = Field(
        default=(0.5, 1.0), description="smallest and largest share of the frame in a random_resized crop"
    )
    crop_aspect: tuple[Ratio, Ratio] = Field(
        default=(0.75, 4 / 3), description="smallest and largest width over height of a random_resized crop"
    )
    interpolation: Literal["bilinear", "bicubic", "random"] = Field(
        default="bilinear", description="how a crop is scaled; random: one of the two for each view"
    )
    flip: float = Field(default=0.5, ge=0, le=1, description="probability of a mirrored view")
    color_jitter: float = Field(
        default=0.0, ge=0, description="largest relative change of brightness, contrast and saturation"
    )
    randaug_ops: int = Field(default=0, ge=0, description="RandAugment operations drawn for a view; 0: off")
    randaug_magnitude: float = Field(default=7.0, ge=0, description="mean strength of an operation, of 10")
    randaug_std: float = Field(default=0.5, ge=0, description="standard deviation of the strength")
    randaug_probability: float = Field(default=0.5, ge=0, le=1, description="that a drawn operation is carried out")
    erase: float = Field(default=0.0, ge=0, le=1, description="probability of random erasing")
    erase_fill: Literal["noise", "black"] = Field(default="noise", description="what an erased box is filled with")

    @model_validator(mode="after")
    def _ranges_ascend(self) -> AugmentConfig:
        for name, (low, high) in (("crop_area", self.crop_area), ("crop_aspect", self.crop_aspect)):
            if low > high:
                raise ValueError(f"{name}: expected the smaller value first, got [{low:g}, {high:g}]")
        return self


class MixConfig(Section):
    """Mixup and cutmix between neighbours of the global order, and label smoothing."""

    mixup_alpha: float = Field(default=0.0, ge=0, description="of the beta distribution of mixup's shares; 0: off")
    cutmix_alpha: float = Field(default=0.0, ge=0, description="of the beta distribution of cutmix's shares; 0: off")
    switch_probability: float = Field(default=0.5, ge=0, le=1, description="of cutmix where both are on")
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="share of a target that is spread evenly over all classes"
    )
    scope: Literal["pair", "batch"] = Field(
        default="pair", description="one draw per pair, or one per step and modality as released"
    )


class SourceConfig(Section):
    """One dataset in the mix."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$", description="unique; also the name of the classification head")
    modality: Modality = Field(description="what a sample is shown as: one frame or a clip")
    manifest: str = Field(json_schema_extra=FREE, description="what it lists must stay; the file may move")
    cache: str | None = Field(
        default=None,
        description="folder that `s4d data cache` wrote for this manifest; null: decode the files",
        json_schema_extra=FREE,
    )
    train_split: str = Field(default="train", description="split of the manifest that is trained on")
    test_split: str = Field(default="test", description="split of the manifest that is scored")
    fold: int | None = Field(default=None, description="which of the manifest's folds; null: it has one at most")
    classes: list[str] | str | None = Field(
        default=None,
        description="class names in head order, or a public order (s4d, mae-dfer, dfer-clip); null: the manifest's own",
    )
    targets: Literal["labels", "distribution"] = Field(
        default="labels", description="distribution: train on each sample's shares of votes; metrics keep to its label"
    )
    sampling: Literal["natural", "balanced", "sqrt"] = Field(
        default="natural",
        description="how often a class is drawn: as it comes, all alike, or by the root of its size",
    )
    rate: float = Field(default=1.0, gt=0, description="share of the dataset that passes in one epoch")
    views: int = Field(
        default=1, ge=1, description="differently augmented views of one decoded sample (repeated augmentation)"
    )
    stride: int = Field(default=4, ge=1, description="frames between two sampled frames of a clip")
    window: Literal["full", "voxceleb2"] = Field(
        default="full", description="voxceleb2: the top-centre 160/224 window of the frame"
    )


class DataConfig(Section):
    """Datasets and how their samples become pixels."""

    sources: list[SourceConfig] = Field(min_length=1)
    image: AugmentConfig = AugmentConfig()
    video: AugmentConfig = AugmentConfig()
    mix: MixConfig = MixConfig()
    mask_ratio: dict[Modality, Share] = Field(
        default={"image": 0.9, "video": 0.95},
        description="pre-training: share of tokens that the encoder does not see",
    )
    decode_ratio: dict[Modality, Part] = Field(
        default={"image": 1.0, "video": 1.0},
        description="share of the masked tokens that the decoder sees and predicts in training",
    )
    frame_sampling: Literal["window", "release"] = Field(
        default="window", description="release: the released rule for short clips"
    )
    order: Literal["natural", "lexicographic"] = Field(
        default="natural", description="order of frame files in a folder"
    )
    on_error: Literal["error", "skip"] = Field(
        default="error",
        description="at an unreadable medium: stop, or take the next sample of the order and count it",
        json_schema_extra=FREE,
    )
    backend: Literal["auto", "pyav", "dali", "torchcodec"] = Field(
        default="auto",
        description="what decodes training media (evaluation: pyav; torchcodec: videos alone); auto: pyav on a CPU, on "
        "a GPU the fastest on the run's own files",
        json_schema_extra=alike("pyav", "torchcodec"),
    )
    workers: int = Field(
        default=1,
        ge=0,
        description="decoding processes per rank; 0: decode in the training process, where a bad file has no limits of "
        "time and memory",
        json_schema_extra=FREE,
    )
    val_share: float = Field(
        default=0.0, ge=0, lt=1, description="share of the train split carved off by identity for selection"
    )

    @model_validator(mode="after")
    def _unique_names(self) -> DataConfig:
        names = [source.name for source in self.sources]
        if len(set(names)) != len(names):
            raise ValueError(f"sources: names must be unique, got {names}")
        return self
