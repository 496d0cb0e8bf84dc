"""Optimizer groups: which parameters decay, and the learning-rate scale of each."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from engine.adamw import WholeAdamW
from engine.protocols import OptimSettings, Task

# What decays: the released pre-training spares biases by name and norms, so that q/v bias and mask token do decay.
NORM_TYPES = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)


def decays(name: str, parameter: nn.Parameter, *, rule: str, norm_parameters: set[str]) -> bool:
    """True if the parameter takes weight decay under `rule` (`matrices` or `release`)."""
    if rule == "matrices":
        return parameter.ndim >= 2
    return not (name.endswith(".bias") or name == "bias" or name in norm_parameters)


def lr_scale(task: Task, name: str, layer_decay: float) -> float:
    """Factor on the learning rate of one parameter: layer-wise decay times the task's own multiplier."""
    layer = task.layer_of(name)
    depth_scale = 1.0 if layer is None else layer_decay ** (task.num_layers - layer)
    return depth_scale * task.lr_multiplier(name)


def build_param_groups(task: Task, settings: OptimSettings) -> list[dict[str, Any]]:
    """Groups of trainable parameters with equal `weight_decay` and `lr_scale`, in the order of first appearance."""
    norms = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in task.module.named_modules()
        if isinstance(module, NORM_TYPES)
        for name, _ in module.named_parameters(recurse=False)
    }
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in task.module.named_parameters():
        if not parameter.requires_grad:
            continue
        decayed = decays(name, parameter, rule=settings.decay_rule, norm_parameters=norms)
        decay = settings.weight_decay if decayed else 0.0
        scale = lr_scale(task, name, settings.layer_decay)
        group = groups.setdefault((decay, scale), {"params": [], "weight_decay": decay, "lr_scale": scale, "lr": 0.0})
        group["params"].append(parameter)
    return list(groups.values())


def build_optimizer(task: Task, settings: OptimSettings, *, sharded: bool) -> torch.optim.AdamW:
    """AdamW over the task's parameters; one fused update per tensor on every device, so nothing is compiled.

    Where gradients are sharded, it is DeepSpeed that measures and clips them.
    """
    groups = build_param_groups(task, settings)
    values: dict[str, Any] = {"lr": settings.lr, "betas": settings.betas, "eps": settings.eps}
    if sharded:
        return torch.optim.AdamW(groups, fused=True, **values)
    return WholeAdamW(groups, max_norm=settings.max_grad_norm, **values)
