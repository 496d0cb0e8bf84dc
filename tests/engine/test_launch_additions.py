"""What was added to the method, all of it on: one loss curve on one and two ranks at every ZeRO stage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from engine_project import write_media, write_run

pytestmark = [pytest.mark.launch, pytest.mark.deep]

STEPS = 6
OPTIONS = {
    "pretrain": ("loss.motion=0.5",),
    "finetune": (
        "loss.logit_adjustment=1.0",
        "loss.static_distillation=0.5",
        "loss.cross_labels=0.5",
        "model.moae.modality_prior=true",
        "model.moae.shared_experts=1",
        "model.moae.zero_init=false",
    ),
}
PARTS = {
    "pretrain": ("motion/video",),
    "finetune": ("distillation/video", "cross/image", "cross/video", "balance/image", "balance/video"),
}


def curve(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("task", sorted(OPTIONS))
def test_same_curve_on_one_and_two_ranks_at_every_stage(tmp_path: Path, ranks: Callable[..., None], task: str) -> None:
    write_media(tmp_path)
    path = str(write_run(tmp_path, "run", task))
    common = [path, f"engine.steps={STEPS}", *OPTIONS[task]]
    ranks(1, [[*common, f"run_dir={tmp_path}/alone"]], script="engine_real_ranks.py")
    jobs = [[*common, f"run_dir={tmp_path}/{stage}", f"engine.zero_stage={stage}"] for stage in (0, 2, 3)]
    jobs.append([*common, f"run_dir={tmp_path}/accumulated", "batch.accumulation=2"])
    ranks(2, jobs, script="engine_real_ranks.py")
    expected = curve(tmp_path / "alone")
    assert len(expected) == STEPS
    for name in ("0", "2", "3", "accumulated"):
        found = curve(tmp_path / name)
        for key in ("loss", "loss/video", "grad_norm", *PARTS[task]):
            assert [line[key] for line in found] == pytest.approx([line[key] for line in expected], rel=1e-5), name
