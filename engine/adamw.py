"""AdamW where every rank holds whole gradients: clips them, and widens those in bf16, while it updates.

Clipping beforehand reads and writes all gradients once more; widening all of them at once takes the memory that keeping
them in bf16 has spared.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

# As DeepSpeed's other stages, so that a norm of zero divides by nothing.
NORM_EPSILON = 1e-6


class WholeAdamW(torch.optim.AdamW):
    """Fused AdamW over fp32 weights whose gradients are fp32 or bf16; `max_norm` None clips nothing."""

    def __init__(self, groups: list[dict[str, Any]], *, max_norm: float | None, **settings: Any) -> None:
        super().__init__(groups, fused=True, **settings)
        self._max_norm = max_norm
        # What the fused update divides gradients by.
        self.grad_scale: Tensor | None = None

    @torch.no_grad()
    def measure(self) -> Tensor:
        """Global norm of the gradients as they are; the next step brings it down to the largest one allowed."""
        gradients = [value.grad for group in self.param_groups for value in group["params"] if value.grad is not None]
        norm = torch.nn.utils.get_total_norm([value for value in gradients if value.dtype == torch.float32])
        narrow = [value for value in gradients if value.dtype != torch.float32]
        if narrow:
            norms = [torch.linalg.vector_norm(value, dtype=torch.float32) for value in narrow]
            norm = torch.linalg.vector_norm(torch.stack([norm, *norms]))
        if self._max_norm is not None:
            self.grad_scale = ((norm + NORM_EPSILON) / self._max_norm).clamp_min(1.0)
        return norm

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update all weights; the gradients in bf16, which are needed no more, are let go of one by one."""
        narrow = [
            (group, value, value.grad)
            for group in self.param_groups
            for value in group["params"]
            if value.grad is not None and value.grad.dtype != torch.float32
        ]
        for _, value, _ in narrow:
            value.grad = None
        result = super().step(closure)
        for group, value, gradient in narrow:
            self._update(group, value, gradient.float())
        return result

    def _update(self, group: dict[str, Any], value: Tensor, gradient: Tensor) -> None:
        state = self.state[value]
        beta1, beta2 = group["betas"]
        adamw(
            [value],
            [gradient],
            [state["exp_avg"]],
            [state["exp_avg_sq"]],
            [],
            [state["step"]],
            fused=True,
            grad_scale=self.grad_scale,
            found_inf=getattr(self, "found_inf", None),
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
