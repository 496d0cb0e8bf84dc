"""Peak memory of one side of the step benchmark in a process of its own: two steps, the first one warm-up.

`peak_memory` starts `python -m s4d.cli.bench_step_memory CASE PEER PRECISION`, the case in JSON, which prints the peak
resident memory less what the process held once everything was imported. Linux counts both for the process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from s4d.errors import DataError

if TYPE_CHECKING:
    from s4d.analysis.bench_step import StepCase

SECONDS = 1800.0
_STATUS = Path("/proc/self/status")
_ROOT = Path(__file__).resolve().parents[2]


def peak_memory(case: StepCase, peer: str, precision: str) -> int | None:
    """Peak bytes of a side above its imports; None where the system does not count them. DataError if it fails."""
    if not _STATUS.exists() or peer.startswith("compile"):
        # What the compiler takes while it compiles is no part of a step.
        return None
    command = [sys.executable, "-m", "s4d.cli.bench_step_memory", json.dumps(asdict(case.shape)), peer, precision]
    path = os.pathsep.join([os.fspath(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=SECONDS, env={**os.environ, "PYTHONPATH": path}
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise DataError(f"memory of {peer} in {precision} on {case.name}: status {done.returncode}: {last}")
    return int(json.loads(done.stdout.splitlines()[-1])["peak_bytes"])


def main(shape: str, name: str, precision: str) -> None:
    """Measure in this process and print one line of JSON."""
    import torch

    from s4d.analysis.bench_step import StepCase, StepShape
    from s4d.analysis.step_peers.side import build_trial
    from s4d.analysis.step_peers.table import PEERS
    from s4d.cli.bench_step_engine import EngineSides

    engine = EngineSides()
    if name == engine.peer.name:
        engine.start()
    build = {peer.name: peer.build for peer in (*PEERS, engine.peer)}[name]
    before = resident("VmRSS")
    case = StepCase(name="memory", shape=StepShape(**json.loads(shape)))
    side = build(build_trial(case, torch.device("cpu")), precision)
    for _ in range(2):
        side.step()
    sys.stdout.write(json.dumps({"peak_bytes": resident("VmHWM") - before, "imported_bytes": before}) + "\n")
    engine.close()


def resident(field: str) -> int:
    """Resident bytes of this process: ``VmRSS`` now, ``VmHWM`` at most so far."""
    lines = _STATUS.read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])


if __name__ == "__main__":
    main(*sys.argv[1:4])
