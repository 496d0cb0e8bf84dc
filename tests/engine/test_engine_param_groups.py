from __future__ import annotations

from pathlib import Path

import pytest
import torch
from engine_fakes import TinyTask, tiny_config
from torch import nn

from engine.param_groups import build_optimizer, build_param_groups


class Encoder(nn.Module):
    """The names on which the released decay rule differs from ours."""

    def __init__(self) -> None:
        super().__init__()
        self.q_bias = nn.Parameter(torch.zeros(4))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.norm = nn.LayerNorm(4)
        self.proj = nn.Linear(4, 4)
        self.frozen = nn.Parameter(torch.zeros(2, 2), requires_grad=False)


def decayed(rule: str, tmp_path: Path) -> set[str]:
    task = TinyTask()
    task.module = Encoder()
    names = {id(parameter): name for name, parameter in task.module.named_parameters()}
    groups = build_param_groups(task, tiny_config(tmp_path, decay_rule=rule, layer_decay=1.0).optim)
    assert sum(len(group["params"]) for group in groups) == 6, "every trainable parameter once, no frozen one"
    return {names[id(parameter)] for group in groups if group["weight_decay"] for parameter in group["params"]}


def test_only_matrices_decay(tmp_path: Path) -> None:
    assert decayed("matrices", tmp_path) == {"mask_token", "proj.weight"}


def test_released_rule_spares_by_name(tmp_path: Path) -> None:
    assert decayed("release", tmp_path) == {"q_bias", "mask_token", "proj.weight"}


def test_scales_join_layer_decay_and_the_tasks_multiplier(tmp_path: Path) -> None:
    task = TinyTask()
    names = {id(parameter): name for name, parameter in task.module.named_parameters()}
    groups = build_param_groups(task, tiny_config(tmp_path, layer_decay=0.5).optim)
    scales = {names[id(parameter)]: group["lr_scale"] for group in groups for parameter in group["params"]}
    assert scales["stem.weight"] == pytest.approx(0.25)
    assert scales["norm.weight"] == 1.0
    assert scales["head.linear.weight"] == 2.0


def test_optimizer_is_fused_adamw(tmp_path: Path) -> None:
    optimizer = build_optimizer(TinyTask(), tiny_config(tmp_path, betas=(0.9, 0.999)).optim, sharded=True)
    assert type(optimizer) is torch.optim.AdamW
    assert optimizer.defaults["fused"] and optimizer.defaults["betas"] == (0.9, 0.999)
