"""What a task hands to the loop: a loss, its named parts and the counts behind them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class StepOutput:
    """Result of one micro batch on one rank.

    `loss` is this rank's share of the global loss: summed over ranks and accumulation it is the loss of the step.
    `parts` are detached scalar shares of the same kind (their sum over ranks and accumulation is the global value).
    `metrics` are further detached tensors, read by the host only when a step is logged.
    """

    loss: Tensor
    parts: dict[str, Tensor]
    metrics: dict[str, Tensor]

    def __post_init__(self) -> None:
        if self.loss.ndim != 0:
            raise ValueError(f"loss: expected a scalar, got shape {tuple(self.loss.shape)}")
