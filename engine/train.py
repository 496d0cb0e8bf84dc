"""Entry point of training: `deepspeed engine/train.py --config configs/pretrain/demo.yaml [key=value ...]`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run by path, Python would look beside this file
    importlib.import_module("engine.stop").stop.install()  # the imports below take seconds
    importlib.import_module("engine.dependencies").require_dependencies()  # and fail in odd ways with old versions

from engine.agreement import require_agreement
from engine.command_line import parse_arguments
from engine.errors import EXIT_DONE, EXIT_SAVED
from engine.failure import leave, report
from engine.run import Choices, execute
from engine.run_folder import RunFolder
from engine.shared_memory import sweep_semaphores
from engine.stop import stop
from engine.watchdog.start import start_watched
from kernels import backends
from s4d.config import blamed_on, load, save
from s4d.data.loader import build_batches
from s4d.tasks import build_task


def train(arguments: list[str]) -> int:
    """One training run on this rank; returns the exit status."""
    options = parse_arguments(arguments)
    config = load(options.config, options.overrides)
    runtime = start_watched(Path(config.run_dir), config.engine.phase_seconds)
    require_agreement(runtime, repr(config))
    if runtime.agree(stop.requested):
        runtime.close()
        return EXIT_SAVED
    folder = RunFolder(Path(config.run_dir))
    with runtime.together("start-up"), blamed_on(options.config, options.overrides):
        task = build_task(config, rank=runtime.rank, world_size=runtime.world_size, device=runtime.device)
        batches = build_batches(config, runtime.rank, runtime.world_size, runtime.device)

    def replay(stored: dict[str, str]) -> None:
        backends.pin(stored)
        batches.replay(stored)

    with runtime.together("taking the run folder"):  # nothing is written before all ranks know that they can start
        if runtime.rank == 0:
            folder.claim()
            sweep_semaphores()
    try:
        with runtime.together("the search for progress"):
            source = None if options.fresh else folder.source(options.resume, config.engine)
        done = execute(
            task,
            batches,
            config,
            runtime=runtime,
            stop=stop,
            folder=folder,
            source=source,
            choices=Choices(read=lambda: backends.chosen() | batches.choices(), replay=replay),
            save_config=lambda path: save(config, path),
        )
    except BaseException:
        folder.withdraw()
        raise
    finally:
        batches.close()
    runtime.close()
    folder.release()
    return EXIT_DONE if done else EXIT_SAVED


if __name__ == "__main__":
    try:
        status = train(sys.argv[1:])
    except BaseException as error:
        status = report(error)
    leave(status)
