"""Pre-training steps of all decoders in turns in one process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import torch

from kernels.bench.timing import quantile
from s4d.analysis.bench_step import StepCase, StepShape, step_flops
from s4d.analysis.decoder_trade.arms import ARMS, Row
from s4d.analysis.step_peers.ours import bare
from s4d.analysis.step_peers.session import time_in_turns
from s4d.analysis.step_peers.side import build_trial

PRECISION, SIDE = "bf16", "bare"
WARM_UP = 2
# Model, images and clips of a step by device.
SHAPES = {"cpu": ("base", 0, 8), "cuda": ("base", 0, 192)}


def step_case(decoder: str, decode_ratio: float, device: torch.device, *, tiny: bool = False) -> StepCase:
    """The step of one decoder; `tiny` is for rehearsals."""
    size, images, clips = ("tiny", 0, 1) if tiny else SHAPES[device.type]
    shape = StepShape(
        task="pretrain",
        size=size,
        images=images,
        clips=clips,
        side=32 if tiny else 160,
        frames=8 if tiny else 16,
        decoder=decoder,
        decode_ratio=decode_ratio,
    )
    return StepCase(name=f"decoder_{decoder}_{decode_ratio:g}", shape=shape)


def time_steps(
    device: torch.device, repeats: int, peak_memory: Callable[[StepCase, str, str], int | None], *, tiny: bool = False
) -> list[Row]:
    """A row for each arm: seconds of every round, medians of times and of the rounds' ratios to the first arm."""
    cases = {arm.name: step_case(arm.decoder, arm.decode_ratio, device, tiny=tiny) for arm in ARMS}
    sides = {name: bare(build_trial(case, device), PRECISION) for name, case in cases.items()}
    for side in sides.values():
        for _ in range(WARM_UP):
            side.step()
    seconds = time_in_turns({(name, PRECISION): side.step for name, side in sides.items()}, repeats, device)
    # Memory is measured in processes of their own, which need what these hold.
    sides.clear()
    default = seconds[ARMS[0].name, PRECISION]
    rows = []
    for arm in ARMS:
        case, own = cases[arm.name], seconds[arm.name, PRECISION]
        ratios = [other / mine for other, mine in zip(default, own, strict=True)]
        rows.append(
            {
                "arm": arm.name,
                "shape": asdict(case.shape),
                "dtype": PRECISION,
                "median_ms": 1e3 * quantile(own, 0.5),
                "p20_ms": 1e3 * quantile(own, 0.2),
                "p80_ms": 1e3 * quantile(own, 0.8),
                "seconds": own,
                "clips_per_second": case.shape.clips / quantile(own, 0.5),
                "speedup": quantile(ratios, 0.5),
                "p20_speedup": quantile(ratios, 0.2),
                "p80_speedup": quantile(ratios, 0.8),
                "flops": step_flops(case.shape),
                "peak_bytes": None if tiny or device.type == "cuda" else peak_memory(case, SIDE, PRECISION),
            }
        )
    return rows
