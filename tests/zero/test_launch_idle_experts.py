"""Experts on real ranks at every ZeRO stage: some without tokens, routers that learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from engine_project import write_media, write_run
from safetensors.torch import load_file
from torch import Tensor
from zero_launch import run_ranks

pytestmark = pytest.mark.launch

# (stage, offload)
KINDS = [(0, "none"), (1, "none"), (2, "none"), (3, "none"), (2, "optimizer"), (3, "optimizer"), (3, "parameters")]
IDLE_EVERYWHERE, USED = slice(4, 6), slice(0, 4)


def name_of(precision: str, stage: int, offload: str, accumulation: int = 1) -> str:
    return f"{precision}-{stage}-{offload}-{accumulation}"


def job(root: Path, precision: str, stage: int, offload: str, accumulation: int = 1, **more: Any) -> dict[str, Any]:
    config = {"zero_stage": stage, "precision": precision, "offload": offload, "accumulation": accumulation}
    return {"run_dir": str(root / name_of(precision, stage, offload, accumulation)), "config": config, **more}


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One rank without ZeRO, two ranks at every stage; experts without tokens on one rank or on both."""
    root = tmp_path_factory.mktemp("idle")
    reference = job(root / "alone", "fp32", 0, "none", total_steps=1)
    run_ranks(1, [reference], script="zero_idle_ranks.py")
    run_ranks(2, [job(root, "fp32", *kind, total_steps=1) for kind in KINDS], script="zero_idle_ranks.py")
    return root


def gradients(run_dir: Path) -> dict[str, Tensor]:
    """First moments after one step: the clipped gradients times a constant."""
    tensors = load_file(run_dir / "checkpoints/step-00000001/optimizer.safetensors")
    prefix = "exp_avg/"
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


@pytest.mark.parametrize(("stage", "offload"), KINDS)
def test_idle_experts_do_not_change_the_gradients(idle: Path, stage: int, offload: str) -> None:
    expected = gradients(idle / "alone" / name_of("fp32", 0, "none"))
    found = gradients(idle / name_of("fp32", stage, offload))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name] - tensor).abs().max() <= 1e-6 * tensor.abs().max(), name
    for name in ("fc1_weight", "fc2_weight", "fc2_bias"):
        assert not found[f"moae.{name}"][IDLE_EVERYWHERE].any(), f"{name}: experts without a token have a gradient"
        assert found[f"moae.{name}"][USED].flatten(1).any(1).all(), f"{name}: an expert that one rank used has none"


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real fine-tuning with experts, three steps on two ranks at every stage."""
    root = tmp_path_factory.mktemp("routed")
    write_media(root)
    path = str(write_run(root, "run"))
    fixed = ["engine.steps=3", "engine.save_every=1", "engine.keep_last=9"]
    jobs = [
        [path, f"run_dir={root}/{stage}-{offload}", f"engine.zero_stage={stage}", f"engine.offload={offload}", *fixed]
        for stage, offload in KINDS
    ]
    run_ranks(2, jobs, script="engine_real_ranks.py")
    return root


@pytest.mark.parametrize(("stage", "offload"), KINDS)
def test_router_weights_move(routed: Path, stage: int, offload: str) -> None:
    folder = routed / f"{stage}-{offload}" / "checkpoints"
    first, last = (load_file(folder / f"step-{step:08d}/model.safetensors") for step in (1, 3))
    moments = load_file(folder / "step-00000003/optimizer.safetensors")
    names = [name for name in first if name.endswith(("router_weight", "noise_weight"))]
    assert len(names) == 2
    for name in names:
        # Every row: each of the four experts is chosen by some token of a step.
        assert (last[name] != first[name]).any(1).all(), name
        assert torch.count_nonzero(moments[f"exp_avg/{name}"]) > 0, name
