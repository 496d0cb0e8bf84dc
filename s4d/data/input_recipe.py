"""How samples become what a head sees when nothing is random: the rule of every evaluation, kept with the weights.

A prediction on somebody's own file follows the record in the checkpoint, so it needs neither the run nor its data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from s4d.config import Config
from s4d.config_data import AugmentConfig, DataConfig, SourceConfig
from s4d.config_section import Modality
from s4d.data.draw_sample import WINDOWS, DrawKey, EvalView, ViewSpec, eval_draw
from s4d.data.draws import SampleDraw

CHOICES: dict[str, tuple[str, ...]] = {
    "modality": get_args(Modality),
    "frame_sampling": get_args(DataConfig.model_fields["frame_sampling"].annotation),
    "window": tuple(WINDOWS),
    "resize": get_args(AugmentConfig.model_fields["resize"].annotation),
    "order": get_args(DataConfig.model_fields["order"].annotation),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class InputRecipe:
    """What one head takes and how an evaluation shows it.

    `image_size` pixels a side; `num_frames` frames `stride` apart (1 and 1 for images) by the rule `frame_sampling`;
    `window` of the decoded frame, of which `resize` takes the largest square or squashes the whole; `order` of frame
    files in a folder. A clip is shown in `temporal_views` x `spatial_views` views, whose probabilities are averaged.
    `small_decode`: JPEG files may be decoded at a fraction of their size. `seed` keys the router noise of models that
    keep it in evaluation.
    """

    modality: str
    image_size: int
    num_frames: int
    stride: int
    frame_sampling: str
    window: str
    resize: str
    order: str
    temporal_views: int
    spatial_views: int
    small_decode: bool
    seed: int

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: expected {' or '.join(choices)}, got {getattr(self, name)!r}")
        for name in ("image_size", "num_frames", "stride", "temporal_views", "spatial_views"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise ValueError(f"{name}: expected a whole number from 1 on, got {getattr(self, name)!r}")
        if type(self.small_decode) is not bool:
            raise ValueError(f"small_decode: expected true or false, got {self.small_decode!r}")
        if type(self.seed) is not int:
            raise ValueError(f"seed: expected a whole number, got {self.seed!r}")

    @property
    def spec(self) -> ViewSpec:
        """What every view looks like."""
        image = self.modality == "image"
        return ViewSpec(
            num_frames=self.num_frames,
            stride=self.stride,
            rule="window" if image else self.frame_sampling,
            size=self.image_size,
            window=self.window,
        )

    @property
    def views(self) -> list[EvalView]:
        """Views of a sample of the head's own modality: windows x crops of a clip, one of an image."""
        if self.modality == "image":
            return [EvalView()]
        temporal, spatial = self.temporal_views, self.spatial_views
        return [EvalView(temporal=(i, temporal), spatial=(j, spatial)) for i in range(temporal) for j in range(spatial)]

    def draws(
        self, sample_id: str, views: Sequence[EvalView], *, frame_count: int, size: tuple[int, int]
    ) -> list[SampleDraw]:
        """Frames and crops of `views` of a sample with `frame_count` frames of `size` (width, height)."""
        spec = self.spec
        return [
            eval_draw(
                DrawKey(seed=self.seed, epoch=0, sample_id=sample_id, view=number),
                spec,
                view,
                resize=self.resize,
                frame_count=frame_count,
                size=size,
            )
            for number, view in enumerate(views)
        ]

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON; `from_dict` is the inverse."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> InputRecipe:
        """Rebuild from `to_dict`; ValueError names the field that is missing, unknown or wrong."""
        known = {field.name for field in dataclasses.fields(InputRecipe)}
        for name in sorted(known.symmetric_difference(values)):
            raise ValueError(f"{name}: {'is missing' if name in known else 'is not a known field'}")
        return InputRecipe(**values)


def input_recipe(config: Config, source: SourceConfig) -> InputRecipe:
    """The recipe by which a run evaluates one of its sources."""
    image = source.modality == "image"
    return InputRecipe(
        modality=source.modality,
        image_size=config.model.image_size,
        num_frames=1 if image else config.model.num_frames,
        stride=1 if image else source.stride,
        frame_sampling=config.data.frame_sampling,
        window=source.window,
        resize=(config.data.image if image else config.data.video).resize,
        order=config.data.order,
        temporal_views=1 if image else config.evaluation.temporal_views,
        spatial_views=1 if image else config.evaluation.spatial_views,
        small_decode=source.views == 1,
        seed=config.seed,
    )
