"""The real model on one and two ranks at every ZeRO stage, and with accumulation, gives one loss curve."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from engine_project import write_media, write_run

pytestmark = pytest.mark.launch

RUNS = [(world_size, stage) for world_size in (1, 2) for stage in range(4)]
ACCUMULATED = (2, -1)
STEPS = 20
# Forwards of layers done again in the backward, and a run to compare that is none of RUNS.
AGAIN = {
    "again": ["engine.zero_stage=3", "engine.recompute=0.5"],
    "half": ["engine.zero_stage=0", "engine.precision=bf16"],
    "half-again": ["engine.zero_stage=0", "engine.precision=bf16", "engine.recompute=1"],
}


@pytest.fixture(scope="module")
def curves(
    tmp_path_factory: pytest.TempPathFactory, ranks: Callable[..., None]
) -> dict[tuple[int, int | str], list[dict]]:
    root = tmp_path_factory.mktemp("curves")
    write_media(root)
    path = str(write_run(root, "run"))
    for world_size in (1, 2):
        jobs = [
            [path, f"run_dir={root}/{world_size}-{stage}", f"engine.zero_stage={stage}", f"engine.steps={STEPS}"]
            for stage in range(4)
        ]
        if world_size == 1:
            jobs += [
                [path, f"run_dir={root}/{name}", f"engine.steps={STEPS}", *wishes] for name, wishes in AGAIN.items()
            ]
        else:
            jobs.append([path, f"run_dir={root}/accumulated", f"engine.steps={STEPS}", "batch.accumulation=2"])
        ranks(world_size, jobs, script="engine_real_ranks.py")
    folders: dict[tuple[int, int | str], Path] = {
        (world_size, stage): root / f"{world_size}-{stage}" for world_size, stage in RUNS
    }
    folders[ACCUMULATED] = root / "accumulated"
    folders |= {(1, name): root / name for name in AGAIN}
    return {
        run: [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for run, folder in folders.items()
    }


@pytest.mark.parametrize(("world_size", "stage"), [*RUNS[1:], ACCUMULATED])
def test_same_curve(curves: dict[tuple[int, int | str], list[dict]], world_size: int, stage: int) -> None:
    expected, found = curves[1, 0], curves[world_size, stage]
    assert [line["step"] for line in found] == list(range(1, STEPS + 1))
    for name in ("loss", "loss/image", "loss/video", "balance/image", "balance/video", "lr"):
        assert [line[name] for line in found] == pytest.approx([line[name] for line in expected], rel=1e-5), name
    # The norm is a sum over all weights in another order at every stage.
    assert [line["grad_norm"] for line in found] == pytest.approx([line["grad_norm"] for line in expected], rel=1e-5)


def test_loss_falls(curves: dict[tuple[int, int | str], list[dict]]) -> None:
    losses = [line["loss"] for line in curves[1, 0]]
    assert sum(losses[-5:]) < sum(losses[:5])


@pytest.mark.parametrize(("again", "once"), [("again", 3), ("half-again", "half")])
def test_layers_done_again_change_nothing(
    curves: dict[tuple[int, int | str], list[dict]], again: str, once: int | str
) -> None:
    for found, expected in zip(curves[1, again], curves[1, once], strict=True):
        compared = {name for name in expected if not name.startswith("time/")}
        assert {name: found[name] for name in compared} == {name: expected[name] for name in compared}
