"""A rank that runs cases one after another in one process group: a case on each line of input, a report for each.

python poisoned_ranks.py <folder with media and run files>
"""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import io
import json
import os
import shutil
import sys
import traceback
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[0:1] = [str(HERE), str(HERE.parents[1])]

import torch  # noqa: E402
from poison import BAD_STEP, STEPS, Case, Poison  # noqa: E402 (found through the line above)

from engine.failure import leave  # noqa: E402
from engine.first_bad import own_part  # noqa: E402
from engine.loop import Training  # noqa: E402
from engine.run import Choices, execute  # noqa: E402
from engine.run_folder import RunFolder  # noqa: E402
from engine.runtime import Runtime, start_runtime  # noqa: E402
from engine.step_guard import StepGuard  # noqa: E402
from engine.stop import StopRequest  # noqa: E402
from s4d.config import load, save  # noqa: E402
from s4d.data.loader import build_batches  # noqa: E402
from s4d.tasks import build_task  # noqa: E402


def run(case: Case, root: Path, runtime: Runtime) -> dict[str, Any]:
    """Train with the case's poison; what this rank saw."""
    run_dir = root / "case"
    if runtime.rank == 0:
        shutil.rmtree(run_dir, ignore_errors=True)
    torch.distributed.barrier()
    overrides = {
        "run_dir": run_dir,
        "engine.steps": STEPS,
        "engine.save_every": 1,
        "engine.keep_last": STEPS,
        "engine.zero_stage": case.stage,
        "engine.precision": case.precision,
        "engine.skip_nonfinite": case.skip,
    }
    config = load(root / f"{case.task}.yaml", [f"{key}={value}" for key, value in overrides.items()])
    folder = RunFolder(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    task = build_task(config, rank=runtime.rank, world_size=runtime.world_size, device=runtime.device)
    batches = build_batches(config, rank=runtime.rank, world_size=runtime.world_size)
    poison = Poison(case, runtime.rank)
    poison.watch(batches)
    report: dict[str, Any] = {"skipped": []}
    said = io.StringIO()
    with contextlib.redirect_stdout(said), watched(poison, report):
        poison.enter(task)
        try:
            execute(
                task,
                batches,
                config,
                runtime=runtime,
                stop=StopRequest(),
                folder=folder,
                source=None,
                choices=Choices(read=dict, replay=lambda stored: None),
                save_config=partial(save, config),
            )
            report["outcome"] = "done"
        except Exception as error:
            traceback.print_exception(error)
            report["outcome"] = f"{type(error).__name__} {getattr(error, 'exit_code', None)}: {error}"
    return {**report, "said": said.getvalue(), "expected": poison.expected()}


@contextlib.contextmanager
def watched(poison: Poison, report: dict[str, Any]) -> Any:
    """Note the state around the first bad step, and which steps this rank skips; leave that step out for "none"."""
    update, step = StepGuard.update, Training.optimizer_step

    def noting(guard: Any, number: int, *arguments: Any) -> Any:
        around = number == BAD_STEP
        if around:
            report["before"] = digest(guard)
        try:
            return update(guard, number, *arguments)
        finally:
            report["skipped"] += [number] if guard._streak else []
            if around:
                report["after"] = digest(guard)

    def leaving_out(training: Any, number: int, micro_batches: Any) -> Any:
        if number != BAD_STEP:
            report["kept"] = step(training, number, micro_batches)
        return report["kept"]

    StepGuard.update = noting
    if poison.case.place == "none":
        Training.optimizer_step = leaving_out
    try:
        yield
    finally:
        StepGuard.update, Training.optimizer_step = update, step
        report.pop("kept", None)


def digest(guard: Any) -> str:
    """Hash of all this rank holds: weights as they are stored and computed with, moments, step counters, average."""
    average = guard._on_good.__self__
    state = average._state
    tensors = [*state.shards, *state.moments("exp_avg"), *state.moments("exp_avg_sq"), *average.shards]
    tensors += [state._optimizer.state[shard]["step"] for shard in state.shards]
    # Padding is no state: ZeRO-3 may write it or not.
    tensors += [own_part(value) for value in guard._engine.module.parameters()]
    hashes = hashlib.sha256()
    for tensor in tensors:
        hashes.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy())
    return hashes.hexdigest()


def serve() -> None:
    """Run cases until the input ends."""
    root, answers = Path(sys.argv[1]), os.fdopen(os.dup(1), "w")
    # Whatever libraries print goes nowhere.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    runtime = start_runtime()
    for line in sys.stdin:
        # A case that hangs ends here, with the place.
        faulthandler.dump_traceback_later(400, exit=True)
        print(json.dumps(run(Case(**json.loads(line)), root, runtime)), file=answers, flush=True)
    leave(0)


if __name__ == "__main__":
    serve()
