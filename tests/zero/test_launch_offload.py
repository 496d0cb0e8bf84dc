"""Offloaded runs on two real ranks: the curve of their stage, checkpoints that know no offload, exact continuation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from zero_launch import run_ranks

pytestmark = [pytest.mark.launch, pytest.mark.deep]

# (precision, stage, offload, accumulation)
OFFLOADED = [
    ("fp32", 1, "optimizer", 1),
    ("fp32", 2, "optimizer", 2),
    ("fp32", 3, "parameters", 1),
    ("bf16", 1, "optimizer", 1),
    ("bf16", 3, "optimizer", 2),
]


def name_of(precision: str, stage: int, offload: str, accumulation: int = 1) -> str:
    return f"{precision}-{stage}-{offload}-{accumulation}"


def job(root: Path, precision: str, stage: int, offload: str, accumulation: int = 1, **more: Any) -> dict[str, Any]:
    config = {"zero_stage": stage, "precision": precision, "offload": offload, "accumulation": accumulation}
    return {"run_dir": str(root / name_of(precision, stage, offload, accumulation)), "config": config, **more}


def entries(run_dir: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if "loss" in line]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks: runs offloaded and not, and offloaded ones continued from checkpoints of others and the reverse."""
    root = tmp_path_factory.mktemp("offload")
    jobs = [job(root, precision, stage, "none", many) for precision, stage, _, many in OFFLOADED]
    jobs += [job(root, *kind) for kind in OFFLOADED]
    run_ranks(2, jobs)
    jobs = []
    for source, target in (("fp32-3-none-1", (1, "optimizer")), ("fp32-3-parameters-1", (2, "none"))):
        checkpoint = "checkpoints/step-00000003"
        moved = job(root / "moved", "fp32", *target)
        shutil.copytree(root / source / checkpoint, Path(moved["run_dir"]) / checkpoint)
        shutil.copy(root / source / "metrics.jsonl", moved["run_dir"])
        jobs.append(moved)
    cut = job(root / "cut", "fp32", 3, "parameters")
    run_ranks(2, [*jobs, {**cut, "stop_after": 4}, cut])
    return root


@pytest.mark.parametrize(("precision", "stage", "offload", "accumulation"), OFFLOADED)
def test_offloaded_curve_is_that_of_the_stage(
    runs: Path, precision: str, stage: int, offload: str, accumulation: int
) -> None:
    expected = entries(runs / name_of(precision, stage, "none", accumulation))
    found = entries(runs / name_of(precision, stage, offload, accumulation))
    assert len(found) == 6
    # What is added up in another order is fp32; in bf16 a rounding may fall the other way.
    bound = 1e-6 if precision == "fp32" else 2e-3
    for name in ("loss", "grad_norm"):
        assert [line[name] for line in found] == pytest.approx([line[name] for line in expected], rel=bound), name


@pytest.mark.parametrize(
    ("source", "target"), [("fp32-3-none-1", "fp32-1-optimizer-1"), ("fp32-3-parameters-1", "fp32-2-none-1")]
)
def test_checkpoints_know_no_offload(runs: Path, source: str, target: str) -> None:
    expected, found = entries(runs / source), entries(runs / "moved" / target)
    assert [line["loss"] for line in found[:3]] == [line["loss"] for line in expected[:3]]
    assert [line["loss"] for line in found] == pytest.approx([line["loss"] for line in expected], rel=1e-5)


def test_offloaded_run_continues_to_the_bit(runs: Path) -> None:
    whole, cut = runs / "fp32-3-parameters-1", runs / "cut" / "fp32-3-parameters-1"
    assert (cut / "checkpoints/step-00000004").is_dir()
    for file in ("model.safetensors", "optimizer.safetensors", "ema.safetensors"):
        last = Path("checkpoints/step-00000006") / file
        assert (cut / last).read_bytes() == (whole / last).read_bytes(), file
