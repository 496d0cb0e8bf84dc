"""A run of one rank that only starts: `watched_rank.py <run folder>` prints its watchdog and waits."""

from __future__ import annotations

import json
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from torch.distributed import distributed_c10d

from engine.failure import leave
from engine.watchdog.heartbeat import pulse
from engine.watchdog.phases import Phase
from engine.watchdog.start import start_watched


def timeouts() -> list[float]:
    """Seconds of every process group that is there."""
    return [
        group._get_backend(device).options._timeout / timedelta(seconds=1)
        for group in distributed_c10d._world.pg_map
        for device in group._device_types
    ]


def main() -> int:
    runtime = start_watched(
        Path(sys.argv[1]), {"start": 5000.0, "load": 20.0, "evaluate": 700.0, "save": 20.0, "finish": 20.0}
    )
    # As DeepSpeed makes them: without a word about time.
    dist.new_group([0])
    pulse.enter(Phase.DATA, 1)
    time.sleep(0.6)
    early = timeouts()
    pulse.enter(Phase.DATA, 2)
    time.sleep(0.6)
    board = pulse._board
    assert board is not None
    print(json.dumps({"watchdog": board.watchdog[0], "early": early, "late": timeouts()}), flush=True)
    time.sleep(60)
    runtime.close()
    return 0


if __name__ == "__main__":
    leave(main())
