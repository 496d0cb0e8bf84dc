"""`s4d train`: check the configuration here, then become the training process."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from s4d.cli.completion import ConfigOption


def train(
    config: ConfigOption,
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value ...", show_default=False)] = None,
    ranks: Annotated[int | None, typer.Option(min=1, help="Processes; one per device when left out.")] = None,
    resume: Annotated[str, typer.Option(help="auto: continue what run_dir holds; never; or a checkpoint.")] = "auto",
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace the progress in run_dir.")] = False,
) -> None:
    """Pre-train or fine-tune on this machine; for several machines call the deepspeed launcher yourself."""
    from s4d.config import load

    load(config, overrides)
    devices = _device_count()
    ranks = ranks or max(devices, 1)
    options = ["--config", str(config), "--resume", resume, *(["--fresh"] if fresh else [])]
    command = launch_command([*options, *(overrides or [])], ranks)
    environment = os.environ if devices else {**os.environ, "DS_ACCELERATOR": "cpu"}
    sys.stdout.flush()
    os.execvpe(command[0], command, environment)


def launch_command(arguments: list[str], ranks: int) -> list[str]:
    """The process to run: plain python for one rank, the deepspeed launcher for more."""
    script = importlib.util.find_spec("engine.train")
    if script is None or script.origin is None:
        raise ModuleNotFoundError("engine.train is not installed beside s4d")
    tail = [script.origin, *arguments]
    if ranks == 1:
        return [sys.executable, *tail]
    launcher = Path(sys.executable).parent / "deepspeed"
    return [sys.executable, str(launcher), "--num_accelerators", str(ranks), *tail]


def _device_count() -> int:
    import torch

    return torch.cuda.device_count()
