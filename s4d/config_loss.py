"""The part of the configuration about terms of the loss that the method itself does not have; all of them are off."""

from __future__ import annotations

from collections.abc import Collection

from pydantic import Field

from s4d.config_section import Section


class LossConfig(Section):
    """Terms beside the method's own losses; 0 is off."""

    logit_adjustment: float = Field(
        default=0.0,
        ge=0,
        description="fine-tuning: times the log of each class's share of the training draws, added to its head's "
        "logits in the training loss alone, for rare classes; 1 aims at the mean recall over classes",
    )
    static_distillation: float = Field(
        default=0.0,
        ge=0,
        description="fine-tuning: weight of the divergence of a clip's prediction from what the static heads, which "
        "take no gradient from it, say of the same clip, over the classes of one name",
    )
    cross_labels: float = Field(
        default=0.0,
        ge=0,
        description="fine-tuning: weight of the cross-entropy of the clips' heads on stills, and of the static heads "
        "on clips, over the classes of one name",
    )
    motion: float = Field(
        default=0.0,
        ge=0,
        description="pre-training: weight of the error in the differences between neighbouring frames of clips",
    )

    def problem(self, task: str, modalities: Collection[str], tubelet_size: int) -> str | None:
        """Why a term that is on cannot be part of a run; None if all can."""
        if task == "finetune" and self.motion > 0:
            return "loss.motion: fine-tuning reconstructs no frames"
        between_heads = [name for name in ("static_distillation", "cross_labels") if getattr(self, name) > 0]
        of_heads = [*(["logit_adjustment"] if self.logit_adjustment > 0 else []), *between_heads]
        if task == "pretrain" and of_heads:
            return f"loss.{of_heads[0]}: pre-training has no heads"
        if between_heads and set(modalities) != {"image", "video"}:
            return f"loss.{between_heads[0]}: needs an image source and a video source"
        if self.motion > 0 and ("video" not in modalities or tubelet_size < 2):
            return "loss.motion: needs a video source and tubelets of two frames or more"
        return None
