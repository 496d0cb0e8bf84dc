"""How long training waits for its checkpoints at the size of a ViT-B with moments and an average, 1.4 GB in all.

    python tests/checkpoints/measure_waiting.py [folder] [rounds] > benchmarks/results/cpu/checkpoint_waiting.json

Prints one JSON object: seconds of a step, of the wait when a checkpoint is begun (into fresh memory, then into kept
memory), until it is published, and of a step meanwhile.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import torch
from small_run import SmallRun
from torch import nn

from kernels.bench.machine import machine_facts, source_commit

LAYERS, WIDTH, TOKENS, BATCH = 12, 768, 197, 4


class Base(SmallRun):
    """The small run around an encoder of 85 million weights that really computes."""

    def __init__(self, folder: Path) -> None:
        layer = nn.TransformerEncoderLayer(WIDTH, 12, 4 * WIDTH, batch_first=True, norm_first=True, dropout=0.0)
        super().__init__(folder, module=nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False))

    def advance(self) -> None:
        """One step of forward, backward and update, with the verbs of the loop."""
        self.step += 1
        self.checkpoints.settle()
        self.optimizer.zero_grad()
        self.task.module(torch.randn(BATCH, TOKENS, WIDTH)).square().mean().backward()
        self.checkpoints.hold_updates()
        self.optimizer.step()
        self.average.update(self.step)


def seconds(action: object) -> float:
    """Time of a call."""
    begin = time.perf_counter()
    action()  # type: ignore[operator]
    return time.perf_counter() - begin


def main() -> None:
    """Measure in `folder`, which is removed again."""
    root = Path(tempfile.mkdtemp(dir=sys.argv[1] if len(sys.argv) > 1 else None))
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    try:
        run = Base(root)
        run.advance()
        waits, meanwhile, published = [], [], []
        calm = [seconds(run.advance) for _ in range(2)]
        for _ in range(rounds + 1):
            waits.append(seconds(run.save))
            begin = time.perf_counter()
            meanwhile.append(seconds(run.advance))
            run.checkpoints.linger(600)
            published.append(time.perf_counter() - begin)
            run.checkpoints.settle()
            calm.append(seconds(run.advance))
        size = sum(path.stat().st_size for path in root.glob("checkpoints/step-*/*")) / 2
    finally:
        shutil.rmtree(root)
    wait, step = median(waits[1:]), median(calm)
    figures = {
        "gigabytes": size / 1e9,
        "step": step,
        "wait_first": waits[0],
        "wait": wait,
        "published_after": median(published[1:]),
        "step_meanwhile": median(meanwhile),
        "wait_share_of_a_step": wait / step,
    }
    document = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": source_commit(),
        "machine": machine_facts(torch.device("cpu")),
        **{name: round(value, 4) for name, value in figures.items()},
    }
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
