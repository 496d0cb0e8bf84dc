"""Entry point of training: `deepspeed engine/train.py --config configs/pretrain/demo.yaml [key=value ...]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__" and not __package__:
    # Run by path, Python looks for modules beside this file; look in the repository root instead.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from engine.errors import EXIT_DONE, EXIT_SAVED
from engine.failure import leave, report
from engine.run import Choices, execute
from engine.run_folder import RunFolder
from engine.runtime import start_runtime
from engine.stop import StopRequest
from kernels import backends
from s4d.config import load, save
from s4d.data.loader import build_batches
from s4d.tasks import build_task


def parse(arguments: list[str]) -> argparse.Namespace:
    """Options and dotted overrides."""
    parser = argparse.ArgumentParser(prog="engine/train.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", required=True, help="YAML file with one complete run")
    parser.add_argument(
        "--resume", default="auto", help="auto: continue what is in run_dir; never; or a checkpoint folder"
    )
    parser.add_argument("--fresh", action="store_true", help="replace the progress in run_dir")
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="single values of the configuration")
    return parser.parse_intermixed_args(arguments)


def train(arguments: list[str]) -> int:
    """One training run on this rank; returns the exit status."""
    options = parse(arguments)
    config = load(options.config, options.overrides)
    stop = StopRequest()
    stop.install()
    runtime = start_runtime()
    folder = RunFolder(Path(config.run_dir))
    with runtime.together("start-up"):
        if runtime.rank == 0:
            folder.claim()
            if options.fresh:
                folder.clear()
            save(config, folder.path / "config.yaml")
    with runtime.together("start-up"):
        source = folder.source(options.resume, config.engine.save_every)
        task = build_task(config, rank=runtime.rank, world_size=runtime.world_size, device=runtime.device)
        batches = build_batches(config, rank=runtime.rank, world_size=runtime.world_size)
    try:
        choices = Choices(read=backends.chosen, replay=backends.pin)
        done = execute(task, batches, config, runtime=runtime, stop=stop, folder=folder, source=source, choices=choices)
    finally:
        batches.close()
    runtime.close()
    return EXIT_DONE if done else EXIT_SAVED


if __name__ == "__main__":
    try:
        status = train(sys.argv[1:])
    except BaseException as error:
        status = report(error)
    leave(status)
