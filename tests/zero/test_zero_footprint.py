"""The arithmetic of `engine.footprint`, and that it agrees with what ranks hold and send."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from engine.ds_config import REDUCE_BUCKET
from engine.footprint import PERSISTENT_NUMEL, Case, memory, sent, traffic
from s4d.cli.app import build_app

# One weight small enough to stay whole at stage 3, two that are sharded.
SIZES = (PERSISTENT_NUMEL, 3 * PERSISTENT_NUMEL, 4 * PERSISTENT_NUMEL)
TOTAL = 8 * PERSISTENT_NUMEL


def held(stage: int, world_size: int, precision: str, offload: str = "none") -> dict[str, float]:
    """Bytes for each weight of the model."""
    case = Case(stage=stage, world_size=world_size, precision=precision, offload=offload)
    return {name: size / TOTAL for name, size in memory(case, SIZES).as_dict().items()}


def test_without_zero_everything_is_whole() -> None:
    assert held(0, 4, "fp32") == held(0, 1, "fp32")
    assert sum(held(0, 4, "fp32").values()) - held(0, 4, "fp32")["gathered"] == 4 + 8 + 4 + 4
    # The weights that are rounded for bf16 live in a step alone.
    assert held(0, 4, "bf16") == held(0, 4, "fp32")


def test_one_rank_on_a_cpu_leaves_gradients_in_bf16() -> None:
    def gradients(world_size: int, precision: str, *, on_cpu: bool) -> float:
        case = Case(stage=0, world_size=world_size, precision=precision, on_cpu=on_cpu)
        return memory(case, SIZES).gradients / TOTAL

    assert gradients(1, "bf16", on_cpu=True) == 2
    assert gradients(2, "bf16", on_cpu=True) == gradients(1, "fp32", on_cpu=True) == 4
    assert gradients(1, "bf16", on_cpu=False) == 4


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_optimizer_state_is_divided(stage: int, world_size: int) -> None:
    found = held(stage, world_size, "bf16")
    assert (found["masters"], found["moments"], found["ema"]) == (4 / world_size, 8 / world_size, 4 / world_size)


def test_gradients_are_divided_from_stage_2_on() -> None:
    assert held(1, 4, "bf16")["gradients"] == 6
    assert held(2, 4, "bf16")["gradients"] == held(3, 4, "bf16")["gradients"] == 1


def test_stage_3_divides_weights_but_for_small_ones() -> None:
    found = held(3, 4, "bf16")
    assert found["weights"] == 2 / 4 + 2 / 8
    assert found["gathered"] == 2 + 2 / 4
    assert found["buffers"] == 4 * REDUCE_BUCKET / TOTAL


def test_messages_of_a_step() -> None:
    def messages(stage: int, world_size: int = 4, accumulation: int = 1) -> dict[str, float]:
        case = Case(stage=stage, world_size=world_size, precision="bf16", accumulation=accumulation)
        return {name: size / TOTAL for name, size in traffic(case, SIZES).items()}

    assert messages(0) == {"all_reduce": 4} == messages(0, accumulation=2)
    assert messages(1) == {"all_reduce": 4, "all_gather_into_tensor": 2} == messages(1, accumulation=2)
    assert messages(2, accumulation=2) == {"all_reduce": 8, "all_gather_into_tensor": 2}
    assert messages(3) == {"reduce_scatter_tensor": 4, "all_gather_into_tensor": 2}
    assert messages(3, accumulation=2) == {"reduce_scatter_tensor": 8, "all_gather_into_tensor": 2 + 2 * 7 / 8}
    assert messages(3, world_size=1) == {"reduce_scatter_tensor": 4}


def test_a_ring_sends_less_than_the_message_or_less_than_twice() -> None:
    assert sent("all_reduce", 8.0, 4) == 12.0 and sent("all_gather_into_tensor", 8.0, 4) == 6.0
    assert sent("all_reduce", 8.0, 1) == 0.0


def test_bad_options_are_refused_in_one_line() -> None:
    for arguments in (["--worlds", "0"], ["--worlds", "two"], ["--model", "huge"], ["--markdown", "missing.json"]):
        assert CliRunner().invoke(build_app(), ["bench", "zero", *arguments]).exception is not None


@pytest.mark.deep
@pytest.mark.launch
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_hold_and_send_what_the_model_says(tmp_path: Path, world_size: int) -> None:
    file = tmp_path / "zero.json"
    code = "import sys; from s4d.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "bench", "zero", "--model", "tiny", "--worlds", str(world_size)]
    done = subprocess.run([*command, "--json", str(file)], capture_output=True, text=True, check=False)
    rows = json.loads(file.read_text())["rows"]
    assert len(rows) == 20 and not [row["case"] for row in rows if not row["ok"]], done.stderr
    assert done.returncode == 0
