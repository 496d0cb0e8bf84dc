"""What `recipe:` implies: field defaults that lie between the schema's defaults and the values of the file.

`s4d` is the schema's own defaults. `release` is what the public code of the method does. A value in the file or on the
command line wins over the recipe; `deviations` lists where that happened, and `s4d config show` prints it.
"""

from __future__ import annotations

import copy
from functools import reduce

from s4d.config_yaml import Value

RELEASE: dict[str, Value] = {
    "data.order": "lexicographic",
    "data.frame_sampling": "release",
    "batch.batching": "alternate",
}
RECIPES: dict[tuple[str, str], dict[str, Value]] = {
    ("s4d", "pretrain"): {},
    ("s4d", "finetune"): {},
    ("release", "pretrain"): {**RELEASE, "optim.decay_rule": "release"},
    ("release", "finetune"): {
        **RELEASE,
        "model.init_final_norm": False,
        "model.moae.zero_init": False,
        "model.moae.router_noise": "always",
        "model.moae.capacity_factor": 1.0,
        "model.moae.balance": "release",
        "model.moae.balance_weight": 0.0,
        "model.moae.lr_multiplier": 1.0,
        "model.moae.layer_decay": True,
        "data.image.resize": "square",
        "data.video.resize": "square",
        "data.mix.scope": "batch",
        "evaluation.protocol": "release",
        "evaluation.temporal_views": 2,
        "evaluation.spatial_views": 2,
    },
}
# Off at 0 and false, which is what the released method has of them.
ADDED = (
    "loss.logit_adjustment",
    "loss.static_distillation",
    "loss.cross_labels",
    "loss.motion",
    "model.moae.modality_prior",
    "model.moae.shared_experts",
)


def with_recipe(values: dict[str, Value]) -> dict[str, Value]:
    """A copy of `values` in which fields that are not given have the recipe's value."""
    filled = copy.deepcopy(values)
    for key, value in _implied(values).items():
        *sections, name = key.split(".")
        node: Value = filled
        for section in sections:
            node = node.setdefault(section, {}) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node.setdefault(name, value)
    return filled


def deviations(values: dict[str, Value]) -> list[str]:
    """Lines `key: value (recipe: value)` for the resolved `values` that differ from what their recipe implies."""
    found = []
    for key, expected in _implied(values).items():
        node: Value = values
        for part in key.split("."):
            node = node[part] if isinstance(node, dict) else None
        if node != expected:
            found.append(f"{key}: {node} (recipe {values['recipe']}: {expected})")
    return found


def not_released(config: object) -> str | None:
    """The first field of a configuration that turns on what the released method does not have."""
    return next((key for key in ADDED if reduce(getattr, key.split("."), config)), None)


def _implied(values: dict[str, Value]) -> dict[str, Value]:
    recipe, task = values.get("recipe", "s4d"), values.get("task")
    return RECIPES.get((recipe, task), {}) if isinstance(recipe, str) and isinstance(task, str) else {}
