"""Starting ranks of the engine's tests and of these."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ENGINE = HERE.parent / "engine"
sys.path.append(str(ENGINE))

from engine_ports import free_port  # noqa: E402 (found through the line above)


def run_ranks(world_size: int, jobs: list[Any], *, script: str = "engine_ranks.py", timeout: float = 240) -> None:
    """Run `script` as `world_size` processes over the same list of jobs; all must succeed."""
    path = HERE / script
    command = [sys.executable, str(path if path.exists() else ENGINE / script), json.dumps(jobs)]
    shared = {
        **os.environ,
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(world_size),
        "LOCAL_SIZE": str(world_size),
        "PYTHONPATH": f"{HERE.parents[1]}:{ENGINE}:{HERE}",
        "PYTHONWARNINGS": "ignore",
    }
    ranks = [
        subprocess.Popen(command, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(world_size)
    ]
    try:
        codes = [rank.wait(timeout) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert codes == [0] * world_size
