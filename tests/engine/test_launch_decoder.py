"""Pre-training with a cross-attention decoder on a share of the masked tokens: one loss curve at every ZeRO stage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from engine_project import write_media, write_run

pytestmark = [pytest.mark.launch, pytest.mark.deep]

STEPS = 6
OPTIONS = ("model.decoder=cross", "model.decoder_depth=2", 'data.decode_ratio={"image": 1.0, "video": 0.5}')


def curve(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_same_curve_on_one_and_two_ranks_at_every_stage(tmp_path: Path, ranks: Callable[..., None]) -> None:
    write_media(tmp_path)
    path = str(write_run(tmp_path, "run", "pretrain"))
    common = [path, f"engine.steps={STEPS}", *OPTIONS]
    ranks(1, [[*common, f"run_dir={tmp_path}/alone"]], script="engine_real_ranks.py")
    jobs = [[*common, f"run_dir={tmp_path}/{stage}", f"engine.zero_stage={stage}"] for stage in range(4)]
    jobs.append([*common, f"run_dir={tmp_path}/accumulated", "batch.accumulation=2"])
    ranks(2, jobs, script="engine_real_ranks.py")
    expected = curve(tmp_path / "alone")
    assert len(expected) == STEPS
    for name in ("0", "1", "2", "3", "accumulated"):
        found = curve(tmp_path / name)
        for key in ("loss", "loss/image", "loss/video", "grad_norm"):
            assert [line[key] for line in found] == pytest.approx([line[key] for line in expected], rel=1e-5), name
