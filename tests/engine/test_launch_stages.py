"""The real model on one and two ranks at every ZeRO stage, and with accumulation, gives one loss curve."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from engine_project import write_media, write_run

pytestmark = pytest.mark.launch

RUNS = [(world_size, stage) for world_size in (1, 2) for stage in range(4)]
ACCUMULATED = (2, -1)
STEPS = 20


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory, ranks: Callable[..., None]) -> dict[tuple[int, int], list[dict]]:
    root = tmp_path_factory.mktemp("curves")
    write_media(root)
    path = str(write_run(root, "run"))
    for world_size in (1, 2):
        jobs = [
            [path, f"run_dir={root}/{world_size}-{stage}", f"engine.zero_stage={stage}", f"engine.steps={STEPS}"]
            for stage in range(4)
        ]
        if world_size == 2:
            jobs.append([path, f"run_dir={root}/accumulated", f"engine.steps={STEPS}", "batch.accumulation=2"])
        ranks(world_size, jobs, script="engine_real_ranks.py")
    folders = {(world_size, stage): root / f"{world_size}-{stage}" for world_size, stage in RUNS}
    folders[ACCUMULATED] = root / "accumulated"
    return {
        run: [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for run, folder in folders.items()
    }


@pytest.mark.parametrize(("world_size", "stage"), [*RUNS[1:], ACCUMULATED])
def test_same_curve(curves: dict[tuple[int, int], list[dict]], world_size: int, stage: int) -> None:
    expected, found = curves[1, 0], curves[world_size, stage]
    assert [line["step"] for line in found] == list(range(1, STEPS + 1))
    for name in ("loss", "loss/image", "loss/video", "balance/image", "balance/video", "lr"):
        assert [line[name] for line in found] == pytest.approx([line[name] for line in expected], rel=1e-5), name
    # The norm is a sum over all weights in another order at every stage.
    assert [line["grad_norm"] for line in found] == pytest.approx([line["grad_norm"] for line in expected], rel=1e-5)


def test_loss_falls(curves: dict[tuple[int, int], list[dict]]) -> None:
    losses = [line["loss"] for line in curves[1, 0]]
    assert sum(losses[-5:]) < sum(losses[:5])
