"""`engine.offload`: what is refused, what DeepSpeed is told, and over which device offloaded shards are gathered."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from engine_fakes import tiny_config
from engine_project import write_run

from engine.ds_config import build_ds_config
from engine.master_state import Fragment, MasterState
from s4d.config import load
from s4d.errors import UsageError


@pytest.mark.parametrize(
    ("stage", "offload", "needed"),
    [(0, "optimizer", 1), (0, "parameters", 3), (1, "parameters", 3), (2, "parameters", 3)],
)
def test_offload_without_shards_is_refused(tmp_path: Path, stage: int, offload: str, needed: int) -> None:
    path = write_run(tmp_path, "run")
    with pytest.raises(UsageError, match=f"{offload}.* needs zero_stage {needed} or more, got {stage}") as caught:
        load(path, [f"engine.zero_stage={stage}", f"engine.offload={offload}"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("stage", "offload"), [(1, "optimizer"), (2, "optimizer"), (3, "optimizer"), (3, "parameters")]
)
def test_deepspeed_offloads_and_keeps_the_given_optimizer(tmp_path: Path, stage: int, offload: str) -> None:
    config = load(write_run(tmp_path, "run"), [f"engine.zero_stage={stage}", f"engine.offload={offload}"])
    assert config.engine.offload == offload
    values = build_ds_config(tiny_config(tmp_path, zero_stage=stage, offload=offload), 2)
    zero = values["zero_optimization"]
    assert zero["offload_optimizer"]["device"] == "cpu"
    assert ("offload_param" in zero) == (offload == "parameters")
    assert values["zero_force_ds_cpu_optimizer"] is False and "optimizer" not in values


def test_nothing_is_offloaded_by_default(tmp_path: Path) -> None:
    assert load(write_run(tmp_path, "run"), []).engine.offload == "none"
    zero = build_ds_config(tiny_config(tmp_path, zero_stage=3), 2)["zero_optimization"]
    assert not [name for name in zero if "offload" in name]


def test_host_shards_are_gathered_over_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards in host memory beside a GPU, here the meta device: NCCL would refuse a message in host memory."""
    state = MasterState.__new__(MasterState)
    state._engine = SimpleNamespace(device=torch.device("meta"))
    state._replicated = False
    state.shapes = {"weight": (2, 3)}
    state.shards = [torch.arange(4.0)]
    state._fragments = {"weight": Fragment(shard=0, shard_offset=1, offset=2, numel=3)}
    messages: list[torch.Tensor] = []
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", messages.append)
    ((name, full),) = state.gather(state.shards)
    assert name == "weight" and full.shape == (2, 3)
    assert [message.device.type for message in messages] == ["meta"] and full.device.type == "meta"
    state.scatter(state.shards, lambda name: torch.arange(6.0).view(2, 3) + 10)
    assert state.shards[0].tolist() == [0.0, 12.0, 13.0, 14.0]
