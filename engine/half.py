"""bf16 without ZeRO: the forward computes with bf16 copies of the fp32 weights that AdamW updates.

DeepSpeed's own bf16 at stage 0 keeps two sets of weights and asks the host about every gradient. Here it has an fp32
model to look after: gradients are fp32 sums, and nothing waits for the device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class HalfForward(nn.Module):
    """`module` computing in bf16: each forward rounds weights and floating-point buffers, which stay as they are."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What `module` returns for the same arguments."""
        given = [*self.module.named_parameters(), *self.module.named_buffers()]
        rounded = {name: value.to(torch.bfloat16) for name, value in given if value.is_floating_point()}
        return torch.func.functional_call(self.module, rounded, args, kwargs)
