"""R16 on one node: a fault of one of two ranks under the launcher; how many seconds until no process is left."""

from __future__ import annotations

import time
from pathlib import Path

import trials
from matrix import ARGUMENTS, CELLS

bench: trials.Bench
GONE_SECONDS = 40.0


def prepare(folder: Path) -> None:
    """Start the server of the trials."""
    global bench
    bench = trials.Bench(folder)


def run(number: int, folder: Path) -> tuple[str, float]:
    """One cell of the matrix; a rank that is only slow is no fault, and its run is to come to its end."""
    cell = CELLS[number]
    note = folder / f"fault-{number}"
    note.unlink(missing_ok=True)
    run_file = bench.write_run(f"matrix-{number}")
    trial = bench.launch(run_file, *ARGUMENTS, "--fresh", environment=cell.environment(note))
    if cell.kind == "slow":
        assert trial.wait() == 0 and not trial.errors, trial.err
        trial.close()
        return f"{cell.kind}: done", 0.0
    trial.until(note.exists)
    trial.gone(GONE_SECONDS)
    seconds = time.monotonic() - float(note.read_text())
    assert trial.wait(5) not in (0, None), "the launcher reports success"
    cell.check_line(trial.errors, 2)
    trial.close()
    return f"{cell.kind}: {trials.saved_step(run_file.with_suffix(''))} saved", seconds
