"""A training run as processes of this machine, for commands that need one and go on with what it left."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from s4d.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
CPU_RANKS = 2


def train_run(
    config: Path, overrides: Sequence[str], run_dir: Path, *, on_gpu: bool, limit: float, threads: int = 1
) -> None:
    """`engine/train.py` on every GPU, or as a rank for each of up to two cores; continues what `run_dir` holds.

    What the ranks print goes to `<run_dir>.log`, which a DataError quotes if one fails or `limit` seconds pass.
    """
    import torch

    from s4d.cli.local_ranks import available_cores, run_ranks

    ranks = torch.cuda.device_count() if on_gpu else min(CPU_RANKS, len(available_cores()))
    options = ["--config", os.fspath(config), *overrides, f"run_dir={json.dumps(os.fspath(run_dir))}"]
    command = [sys.executable, os.fspath(ROOT / "engine" / "train.py"), *options]
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    log = run_dir.parent / f"{run_dir.name}.log"
    begin = log.stat().st_size if log.exists() else 0
    try:
        with log.open("ab") as stream:
            run_ranks(command, ranks, limit=limit, threads=threads, on_gpu=on_gpu, log=stream)
    except DataError as error:
        raise DataError(f"{log}: {error}{first_error(log, begin)}") from error


def first_error(log: Path, begin: int) -> str:
    """What a rank first gave as the reason of its end, from byte `begin` of a log on; empty if none did."""
    with log.open("rb") as stream:
        stream.seek(begin)
        for line in stream:
            text = line.decode("utf-8", errors="replace").rstrip()
            if text.startswith("error: "):
                return f": {text.removeprefix('error: ')}"
    return ""
