"""How long a GPU waits for data: real batches from files, and a training step of ViT-B on a batch of the same size."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch

from s4d.analysis.bench_step import CASES
from s4d.analysis.profile_files import Files, profile_config
from s4d.analysis.step_peers.ours import bare
from s4d.analysis.step_peers.side import build_trial
from s4d.data.loader import build_batches

CASE = "pretrain_192_192"
# As in the recipe: four views of a decoded clip.
VIEWS = 4
WARM = 3


def gpu_wait(
    files: Files,
    device: torch.device,
    *,
    workers: int,
    steps: int,
    case: str = CASE,
    views: int = VIEWS,
    backend: str = "pyav",
    caches: Mapping[str, Path] | None = None,
) -> dict[str, Any]:
    """Share of the time that `steps` steps on `device` wait for the next batch, and the milliseconds of a step.

    The step of the benchmark's `case` runs on its own batch in the device's memory; the batches that arrive have as
    many images and clips, and are copied to the device beside it.
    """
    shape = CASES[case].shape
    side = bare(build_trial(CASES[case], device), "bf16")
    config = profile_config(
        files.distinct if caches else files.manifests,
        shape.samples,
        crop="recipe",
        steps=WARM + steps,
        workers=workers,
        views=views,
        backend=backend,
        caches=caches,
    )
    batches = build_batches(config, 0, 1, device)
    waited, worked = [], []
    try:
        stream = batches.steps(0)
        for _ in range(WARM + steps):
            start = time.perf_counter()
            packed = next(stream)
            arrived = time.perf_counter()
            for batch in packed:
                batch.to(device)
            side.step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            waited.append(arrived - start)
            worked.append(time.perf_counter() - arrived)
    finally:
        batches.close()
    wait, work = sum(waited[WARM:]), sum(worked[WARM:])
    return {
        "backend": "cache" if caches else backend,
        "case": case,
        "workers": workers,
        "steps": steps,
        "step_ms": 1e3 * median(worked[WARM:]),
        "wait_share": wait / (wait + work),
    }
