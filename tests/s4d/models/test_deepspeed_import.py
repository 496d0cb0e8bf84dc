"""Checkpoints that DeepSpeed itself wrote, read by the process that is shut in: equal to the bit, or refused."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from s4d.cli import main
from s4d.config import ModelConfig
from s4d.errors import DataError
from s4d.models.build import build_pretrain
from s4d.models.folder import read_tensors
from s4d.models.foreign.isolated import find_shards, read_isolated
from s4d.models.foreign.zero_shards import merged
from s4d.models.sizes import architecture

RANKS = Path(__file__).with_name("deepspeed_ranks.py")
FORMS = [f"{stage}-{kind}" for stage in range(4) for kind in ("fp32", "bf16")]


@pytest.fixture(scope="module", params=[1, 2], ids=["one rank", "two ranks"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deepspeed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(request.param), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(RANKS), str(folder)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "DS_ACCELERATOR": "cpu"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for rank in range(request.param)
    ]
    try:
        for process in ranks:
            _, text = process.communicate(timeout=200)
            assert process.returncode == 0, text.decode()[-2000:]
    finally:
        for process in ranks:
            process.kill()
    return folder


@pytest.mark.deep
@pytest.mark.launch
@pytest.mark.parametrize("form", FORMS)
def test_weights_are_those_of_the_run_to_the_bit(written: Path, form: str) -> None:
    expected = load_file(written / form / "expected.safetensors")
    found = read_isolated("deepspeed", find_shards(written / form))
    assert found.keys() == expected.keys()
    assert not [name for name in expected if not torch.equal(found[name], expected[name])]


def plain_state() -> dict[str, Any]:
    model = ModelConfig(size="tiny", depth=1, decoder_depth=1)
    module = dict(build_pretrain(architecture(model, experts=False), seed=0).state_dict())
    return {"module": module, "buffer_names": [], "optimizer": None, "ds_version": "0.19.8"}


def test_the_command_makes_a_model_folder(tmp_path: Path) -> None:
    (tmp_path / "run/global_step2").mkdir(parents=True)
    state = plain_state()
    torch.save(state, tmp_path / "run/global_step2/mp_rank_00_model_states.pt")
    (tmp_path / "run/latest").write_text("global_step2")
    assert (
        main(["checkpoint", "import", str(tmp_path / "run"), "--from", "deepspeed", "--out", str(tmp_path / "o")]) == 0
    )
    found = read_tensors(tmp_path / "o")
    assert found.keys() == state["module"].keys()
    assert all(torch.equal(found[name], value) for name, value in state["module"].items())


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((), "not a DeepSpeed checkpoint"),
        (("mp_rank_01_model_states.pt",), "cut over ranks"),
        (("mp_rank_00_model_states.pt", "layer_0_expert_0_mp_rank_00_model_states.pt"), "cut over ranks"),
        (("mp_rank_00_model_states.pt", "zero_pp_rank_1_mp_rank_00_optim_states.pt"), "rank 0 .* is missing"),
        (("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_model_states.pt"), "more model files"),
    ],
)
def test_folders_that_are_not_whole(tmp_path: Path, names: tuple[str, ...], expected: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=expected):
        find_shards(tmp_path)


@pytest.mark.parametrize("name", ["..", "a/b", "/etc", ""])
def test_the_newest_checkpoint_lies_beside_its_pointer(tmp_path: Path, name: str) -> None:
    (tmp_path / "latest").write_text(name)
    with pytest.raises(DataError, match="no name of a checkpoint"):
        find_shards(tmp_path)


def shard(stage: int, flat: list[torch.Tensor], ranks: int) -> dict[str, Any]:
    key = "fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"
    return {"optimizer_state_dict": {"zero_stage": stage, "partition_count": ranks, key: flat}}


@pytest.mark.parametrize(
    ("shards", "expected"),
    [
        ([shard(1, [torch.zeros(6)], 2)], "written by 2 ranks, 1 optimizer files"),
        ([shard(1, [torch.zeros(3)], 1)], "3 of its 6 values"),
        ([shard(2, [torch.zeros(60)], 1)], "6 values are named, 60 are there"),
        ([shard(3, [torch.zeros(7)], 1)], "6 values of each rank are named"),
        ([shard(1, [torch.zeros(6, dtype=torch.int64)], 1)], "no known form"),
        ([shard(1, [torch.zeros(3)], 2), shard(2, [torch.zeros(3)], 2)], "different ZeRO stages"),
        ([{}], "no entry 'optimizer_state_dict'"),
    ],
)
def test_shards_that_do_not_fit(shards: list[dict[str, Any]], expected: str) -> None:
    state = {"module": {}, "param_shapes": [{"x": (2, 3)}]}
    with pytest.raises(ValueError, match=expected):
        merged([state], shards)
