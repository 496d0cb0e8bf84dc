"""Random steps have the shapes, masks and targets of the configuration's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from s4d.analysis.step_profile.load import batch_load, mean_load
from s4d.analysis.step_work import step_work
from s4d.analysis.synthetic_batches import SyntheticBatches, check_quotas, description
from s4d.config import Config
from s4d.errors import UsageError
from s4d.models.sizes import architecture


def config(task: str, **sections: Any) -> Config:
    values: dict[str, Any] = {
        "name": "random",
        "run_dir": "runs/random",
        "task": task,
        "model": {"size": "tiny", "image_size": 32, "num_frames": 4, "drop_path": 0.1},
        "data": {
            "sources": [
                {"name": "clips", "modality": "video", "manifest": "none.csv"},
                {"name": "faces", "modality": "image", "manifest": "none.csv", "views": 2},
            ],
            "image": {"erase": 1.0},
        },
        "batch": {"per_step": {"clips": 4, "faces": 8}, "accumulation": 2},
        "optim": {"lr": 1e-3},
        "engine": {"steps": 3},
    }
    return Config.model_validate({**values, **sections})


def test_pretraining() -> None:
    batches = SyntheticBatches(config("pretrain"), 3)
    steps = list(batches.steps(1))
    assert len(steps) == 2 and len(steps[0]) == 2
    images, clips = steps[0][0].groups
    assert (images.modality, images.pixels.shape) == ("image", (4, 1, 32, 32, 3))
    assert (clips.modality, clips.pixels.shape) == ("video", (2, 4, 32, 32, 3))
    assert clips.pixels.dtype == torch.uint8 and images.erase is not None
    assert steps[0][0].drop_path_keep is not None and steps[0][0].masked_indices.numel() > 0
    assert batches.samples_per_step == steps[0][0].step_samples == {"image": 8, "video": 4}
    assert description(batches.config) == {
        "loss_weights": {"image": 0.5, "video": 0.5},
        "classes": {},
        "class_priors": {},
    }


def test_finetuning_has_a_head_for_each_source() -> None:
    data = {
        "sources": [
            {"name": "clips", "modality": "video", "manifest": "none.csv", "classes": ["a", "b"]},
            {"name": "faces", "modality": "image", "manifest": "none.csv"},
        ],
        "mix": {"mixup_alpha": 0.8},
    }
    batches = SyntheticBatches(config("finetune", data=data), 1)
    (step,) = batches.steps(0)
    assert {head.head: head.targets.shape for head in step[0].heads} == {"clips": (2, 2), "faces": (4, 7)}
    assert step[0].groups[0].mix is not None and step[0].masked_indices.numel() == 0


def test_alternating_steps_hold_one_modality() -> None:
    values = config("pretrain").batch.model_dump() | {"batching": "alternate"}
    batches = SyntheticBatches(config("pretrain", batch=values), 3)
    held = [[group.modality for group in step[0].groups] for step in batches.steps(0)]
    assert held == [["image"], ["video"], ["image"]]
    assert next(step[0].step_samples for step in batches.steps(1)) == {"image": 0, "video": 4}


def test_ranks_share_a_step() -> None:
    steps = [next(SyntheticBatches(config("pretrain"), 1, rank=rank, world_size=2).steps(0))[0] for rank in range(2)]
    assert [[group.pixels.shape[0] for group in step.groups] for step in steps] == [[2, 1], [2, 1]]
    assert steps[0].step_samples == {"image": 8, "video": 4}
    assert not set(steps[0].sample_ids) & set(steps[1].sample_ids)
    assert not torch.equal(steps[0].groups[0].pixels, steps[1].groups[0].pixels)


def test_ranks_that_do_not_divide_a_step_are_refused() -> None:
    with pytest.raises(UsageError, match=r"batch\.per_step\.clips: 4 views a step do not divide into 4 ranks x 2"):
        check_quotas(config("pretrain"), 4)
    data = {**config("finetune").data.model_dump(), "mix": {"mixup_alpha": 0.8}}
    for source in data["sources"]:
        source["views"] = 1
    with pytest.raises(UsageError, match="2 ranks x 2 micro steps in pairs"):
        check_quotas(config("finetune", data=data), 2)


def test_the_load_of_a_mean_step() -> None:
    chosen = config("pretrain")
    arch = architecture(chosen.model, experts=False)
    steps = [
        [batch_load(arch, "pretrain", "bf16", 0, batch) for batch in step]
        for step in SyntheticBatches(chosen, 2).steps(0)
    ]
    load = mean_load(steps)
    assert load.samples == {"image": 8, "video": 4}
    assert load.tokens == 8 * arch.tokens("image") + 4 * arch.tokens("video") > load.visible > 0
    kept = {"image": 0, "video": 0}
    batch = next(SyntheticBatches(chosen, 1).steps(0))[0]
    for count, (_, length), name in zip((4, 2), batch.layout_visible, kept, strict=True):
        assert count
        kept[name] = length
    work = step_work(arch, "pretrain", {"image": 8, "video": 4}, kept)
    assert load.flops == pytest.approx(sum(part.forward.flops + part.backward.flops for part in work.values()))
    assert load.work["embed"].forward.bytes > work["embed"].forward.bytes, "two micro batches read the weights twice"
