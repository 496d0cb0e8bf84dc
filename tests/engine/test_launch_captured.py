"""Runs of the real tasks under DeepSpeed, their steps replayed, beside plain ones: same metrics, same checkpoints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_project import write_media, write_run

HERE = Path(__file__).resolve().parent
FILES = ("model.safetensors", "optimizer.safetensors", "ema.safetensors")
STEPS = 5
# Rows that do not wait for the device, as on a GPU.
BACKENDS = {"attention": "grouped", "moae": "grouped", "patch": "gather", "reconstruction": "fused"}
CASES = {
    "pretrain": ("pretrain", []),
    "finetune": ("finetune", ["batch.accumulation=2"]),
}


def job(root: Path, kind: str, name: str, *more: str) -> list[str]:
    task, changes = CASES[name]
    path = write_run(root, f"{kind}-{name}", task)
    return [kind, str(path), f"engine.steps={STEPS}", "engine.zero_stage=0", "engine.precision=bf16", *changes, *more]


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if not name.startswith("time/")} for line in lines]


def assert_equal(root: Path, name: str) -> None:
    plain, captured = root / f"plain-{name}", root / f"captured-{name}"
    assert len(metrics(plain)) >= STEPS and metrics(captured) == metrics(plain)
    for file in FILES:
        last = Path(f"checkpoints/step-{STEPS:08d}") / file
        assert (captured / last).read_bytes() == (plain / last).read_bytes(), file
    assert json.loads((captured / "backends.json").read_text())["step"] == "graph"
    assert json.loads((plain / "backends.json").read_text())["step"].startswith("plain (")


@pytest.mark.launch
def test_two_ranks_replay_to_the_bit(tmp_path: Path, ranks: Callable[..., None]) -> None:
    """Messages between ranks included: what is reduced are the gradients that a replay leaves."""
    write_media(tmp_path)
    chosen = [f"engine.backends.{op}={row}" for op, row in BACKENDS.items()]
    ranks(2, [job(tmp_path, kind, "finetune", *chosen) for kind in ("plain", "captured")], script="captured_ranks.py")
    assert_equal(tmp_path, "finetune")


@pytest.mark.gpu
def test_cuda_graphs_replay_to_the_bit(tmp_path: Path) -> None:
    """The kernels are the same and none of ours depends on the order in which it runs."""
    write_media(tmp_path)
    jobs = [job(tmp_path, "captured", name) for name in CASES]
    jobs += [job(tmp_path, "plain", name, "engine.step_graph=never") for name in CASES]
    environment = {**os.environ, "DS_ACCELERATOR": "cuda", "PYTHONPATH": f"{HERE.parents[1]}:{HERE}"}
    command = [sys.executable, str(HERE / "captured_ranks.py"), json.dumps(jobs)]
    subprocess.run(command, env=environment, timeout=400, check=True)
    for name in CASES:
        assert_equal(tmp_path, name)
