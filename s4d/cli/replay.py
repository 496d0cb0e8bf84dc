"""`s4d replay`: compute a step that was not finite once more, on one process and with other kernels if asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from s4d.cli.output import print_lines

NOT_FINITE = 5


def replay(
    dump: Annotated[Path, typer.Argument(help="Folder below nonfinite/ in a run.", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="section.key=value ..., for example engine.backends.attention=reference", show_default=False
        ),
    ] = None,
) -> None:
    """Say which tensor of a kept step is not finite; exit status 5 if one is, 0 if all are finite now."""
    import torch

    from engine.first_bad import Search
    from engine.step_dump import read_dump
    from s4d.config import load
    from s4d.data.batch_store import restore_batch

    kept = read_dump(dump)
    config = load(kept.config, ["model.init_from=null", *(overrides or [])])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    task = _rebuild(config, kept, dump, device)
    batches = [restore_batch(tensors, rest).to(device) for tensors, rest in kept.batches]
    step, rank, world_size = (kept.record[name] for name in ("step", "rank", "world_size"))
    found = Search(task, task.module, batches).run(scale=float(world_size), agree=lambda good: good)
    print_lines([f"in training: step {step}: not finite: {kept.record['found']}"])
    if found is None or found.is_guess:
        print_lines([f"again: step {step}: rank {rank}: every tensor is finite"])
        return
    print_lines([f"again: step {step}: not finite: rank {rank}: {found.text}"])
    raise typer.Exit(NOT_FINITE)


def _rebuild(config: Any, kept: Any, dump: Path, device: Any) -> Any:
    """The task with the weights it had; it needs none of the run's data."""
    import torch

    from s4d.errors import DataError
    from s4d.tasks import restore_task

    task = restore_task(config, kept.record["task"], device=device)
    module = task.module.to(torch.bfloat16 if config.engine.precision == "bf16" else torch.float32).train()
    missing, unexpected = module.load_state_dict(kept.weights, strict=False)
    if missing or unexpected:
        raise DataError(f"{dump}: weights that do not fit the model: {sorted([*missing, *unexpected])[0]}")
    return task
