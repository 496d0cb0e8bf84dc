"""Learning rate as a pure function of the step: linear warm-up, then half a cosine, as in the released recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from engine.protocols import OptimSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Warm-up from `warmup_lr` to `peak_lr` over `warmup_steps`, both ends included, then a cosine towards `min_lr`."""

    peak_lr: float
    min_lr: float
    warmup_lr: float
    warmup_steps: int
    total_steps: int

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_steps <= self.total_steps:
            raise ValueError(f"warmup_steps: expected 0 to {self.total_steps}, got {self.warmup_steps}")

    def lr(self, step: int) -> float:
        """Learning rate of the optimizer step with index `step` (the first is 0), before per-group scales."""
        if step < self.warmup_steps:
            done = step / (self.warmup_steps - 1) if self.warmup_steps > 1 else 1.0
            return self.warmup_lr + (self.peak_lr - self.warmup_lr) * done
        done = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        return self.min_lr + 0.5 * (self.peak_lr - self.min_lr) * (1.0 + math.cos(math.pi * done))

    def apply(self, step: int, param_groups: list[dict[str, Any]]) -> float:
        """Write the rate of `step` times the group's `lr_scale` into every group; returns the unscaled rate."""
        lr = self.lr(step)
        for group in param_groups:
            group["lr"] = lr * group["lr_scale"]
        return lr


def build_schedule(settings: OptimSettings, *, samples_per_step: int, total_steps: int) -> Schedule:
    """Schedule of a run: `lr` scales with `samples_per_step / reference_batch` when that is set."""
    scale = samples_per_step / settings.reference_batch if settings.reference_batch else 1.0
    return Schedule(
        peak_lr=settings.lr * scale,
        min_lr=settings.min_lr,
        warmup_lr=settings.warmup_lr,
        warmup_steps=round(settings.warmup_share * total_steps),
        total_steps=total_steps,
    )
