"""Fakes and launchers for the engine's tests: this folder is on the import path of its own tests and of their ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))

from engine_ports import free_port  # noqa: E402 (found through the line above)


def run_ranks(world_size: int, jobs: list[Any], *, script: str = "engine_ranks.py", timeout: float = 240) -> None:
    """Run `script` as `world_size` processes over the same list of jobs; all must succeed."""
    environment = {
        **os.environ,
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(world_size),
        "LOCAL_SIZE": str(world_size),
        "PYTHONPATH": f"{ROOT}:{HERE}",
        "PYTHONWARNINGS": "ignore",
    }
    command = [sys.executable, str(HERE / script), json.dumps(jobs)]
    ranks = [
        subprocess.Popen(command, env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(world_size)
    ]
    try:
        codes = [rank.wait(timeout) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert codes == [0] * world_size


@pytest.fixture(scope="session")
def ranks() -> Callable[..., None]:
    return run_ranks
