"""What is trained and compared: one row per arm, each a variation of the size's fine-tuning configuration.

Every arm takes as many optimizer steps and sees as many labelled clips in them, if it sees clips; every arm that sees
stills sees as many. The released recipe keeps to this with twice the samples in each of its single-modality steps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from s4d.config_yaml import read_yaml
from s4d.errors import UsageError
from s4d.science.variations import VARIATIONS

Group = Literal["claim", "scaling", "variation"]
GROUPS: tuple[Group, ...] = ("claim", "scaling", "variation")
STATIC, DYNAMIC, UNLABELLED = "affectnet", "dfew", "voxceleb2"
BOTH = (STATIC, DYNAMIC)
# The variation with the largest gain on clips, which stands among the arms of the claim too.
BEST = "cross-labels"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretraining:
    """Sets whose samples are reconstructed, and overrides of the pre-training configuration."""

    sources: tuple[str, ...]
    overrides: tuple[str, ...] = ()


DUAL = (STATIC, UNLABELLED)
PRETRAININGS = {
    "video": Pretraining(sources=(UNLABELLED,)),
    "dual": Pretraining(sources=DUAL),
    **{
        f"dual-{variation.name}": Pretraining(sources=DUAL, overrides=variation.pretraining_overrides)
        for variation in VARIATIONS
        if variation.pretraining_overrides
    },
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One recipe: labelled sets, the pre-training it starts from (None: none), the share of the stills, overrides.

    `alternates`: one modality per step, so that twice the samples go into each. `keeps`: checkpoints on the way are
    kept, for the study of gradients.
    """

    name: str
    title: str
    group: Group
    sources: tuple[str, ...]
    pretraining: str | None
    stills: float = 1.0
    alternates: bool = False
    keeps: bool = False
    overrides: tuple[str, ...] = ()


# Recipe values that would change what is measured, not how it is trained: all arms are tested on the same single view.
# The files of a clip are numbered with leading zeros, so both orders of them are the same.
SAME_TEST = ("evaluation.temporal_views=1", "evaluation.spatial_views=1", "data.order=natural")
ARMS: tuple[Arm, ...] = (
    Arm(name="sfer", title="SFER only", group="claim", sources=(STATIC,), pretraining="dual"),
    Arm(name="scratch", title="DFER only, from scratch", group="claim", sources=(DYNAMIC,), pretraining=None),
    Arm(name="video", title="DFER only, video pre-training", group="claim", sources=(DYNAMIC,), pretraining="video"),
    Arm(name="dual", title="DFER only, dual-modal pre-training", group="claim", sources=(DYNAMIC,), pretraining="dual"),
    Arm(
        name="multitask",
        title="vanilla multi-task",
        group="claim",
        sources=BOTH,
        pretraining="dual",
        keeps=True,
        overrides=("mode=multitask",),
    ),
    Arm(
        name="moae-release",
        title="MoAE, release recipe",
        group="claim",
        sources=BOTH,
        pretraining="dual",
        alternates=True,
        overrides=("recipe=release", *SAME_TEST),
    ),
    Arm(name="moae", title="MoAE, s4d recipe", group="claim", sources=BOTH, pretraining="dual", keeps=True),
    Arm(name="stills-0", title="0 %", group="scaling", sources=(DYNAMIC,), pretraining="dual", stills=0.0),
    *(
        Arm(
            name=f"stills-{100 * share:g}",
            title=f"{100 * share:g} %",
            group="scaling",
            sources=BOTH,
            pretraining="dual",
            stills=share,
        )
        for share in (0.125, 0.25, 0.5)
    ),
    *(
        Arm(
            name=variation.name,
            title=variation.title,
            group="variation",
            sources=BOTH,
            pretraining=f"dual-{variation.name}" if variation.pretraining_overrides else "dual",
            overrides=variation.overrides,
        )
        for variation in VARIATIONS
    ),
)
# The arm that is also the last point of the scaling, and what variations are compared with.
REFERENCE = "moae"
# What each arm is compared with, and on which set: the questions, fixed before the answers.
QUESTIONS: tuple[tuple[str, str, str], ...] = (
    ("scratch", "video", DYNAMIC),
    ("video", "dual", DYNAMIC),
    ("dual", "multitask", DYNAMIC),
    ("dual", "moae-release", DYNAMIC),
    ("dual", "moae", DYNAMIC),
    ("multitask", "moae-release", DYNAMIC),
    ("multitask", "moae", DYNAMIC),
    ("moae-release", "moae", DYNAMIC),
    ("sfer", "multitask", STATIC),
    ("sfer", "moae", STATIC),
    ("multitask", "moae", STATIC),
    ("stills-0", "moae", DYNAMIC),
    *((REFERENCE, variation.name, source) for variation in VARIATIONS for source in (DYNAMIC, STATIC)),
)


def arm_named(name: str) -> Arm:
    """The row of an arm; UsageError for an unknown name."""
    for arm in ARMS:
        if arm.name == name:
            return arm
    raise UsageError(f"--arm: {name!r} is unknown (known: {', '.join(arm.name for arm in ARMS)})")


def finetune_overrides(arm: Arm, config: Path) -> list[str]:
    """What an arm makes of a size's fine-tuning configuration, seed and paths apart."""
    values: Any = read_yaml(config)
    quotas: Mapping[str, int] = values["batch"]["per_step"]
    sources = [dict(source) for source in values["data"]["sources"] if source["name"] in arm.sources]
    per_step = {name: quotas[name] * (2 if arm.alternates else 1) for name in arm.sources}
    found = [*_sources(sources, per_step)]
    if len(arm.sources) == 1:
        found += ["mode=single"] if arm.group == "claim" else []
    if len(arm.sources) == 1 or arm.alternates:
        # The weight of a modality that is alone in its step is 1.
        found.append("batch.loss_weights=null")
    if arm.pretraining is None:
        found.append("model.init_from=null")
    return [*found, *arm.overrides]


def pretrain_overrides(kind: str, config: Path) -> list[str]:
    """What a kind of pre-training makes of a size's configuration, seed and paths apart."""
    values: Any = read_yaml(config)
    names = PRETRAININGS[kind].sources
    sources = [dict(source) for source in values["data"]["sources"] if source["name"] in names]
    per_step = {name: values["batch"]["per_step"][name] for name in names}
    return [*_sources(sources, per_step), *PRETRAININGS[kind].overrides]


def _sources(sources: list[dict[str, Any]], per_step: Mapping[str, int]) -> list[str]:
    """JSON is YAML."""
    return [f"data.sources={json.dumps(sources)}", f"batch.per_step={json.dumps(dict(per_step))}"]


def even_rate(stills: int, clips: int, per_step: Mapping[str, int]) -> float:
    """Share of the stills in an epoch of alternating steps with which both modalities have as many steps."""
    steps = max(1, clips // per_step[DYNAMIC])
    # The half keeps the count, which is rounded down, clear of rounding.
    return (steps + 0.5) * per_step[STATIC] / stills
