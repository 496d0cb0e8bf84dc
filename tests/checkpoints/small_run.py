"""A run small enough to save hundreds of times: real masters, moments, average and checkpoints around one AdamW."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from engine.adamw import WholeAdamW
from engine.checkpoint import Checkpoints
from engine.ema import MovingAverage
from engine.master_state import MOMENTS, MasterState
from engine.runtime import Runtime

ALONE = Runtime(rank=0, local_rank=0, world_size=1, device=torch.device("cpu"), control=None)  # type: ignore[arg-type]
COMMIT = "0" * 40
SETTINGS = {"seed": {"value": 0, "default": 0, "free": False}}


class SmallTask:
    """What checkpoints want of a task: a module with weights and one saved buffer, and a description."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.module.register_buffer("table", torch.arange(5))

    def describe(self) -> dict[str, Any]:
        return {"stage": "small"}


class SmallRun:
    """Weights after step n are a function of n alone, so that what was loaded can be recognised."""

    def __init__(self, folder: Path, *, width: int = 24, module: nn.Module | None = None, **policy: Any) -> None:
        torch.manual_seed(5)
        small = nn.ModuleDict({"first": nn.Linear(width, width), "second": nn.Linear(width, 3)})
        self.task = SmallTask(module or small)
        self.optimizer = WholeAdamW([{"params": list(self.task.module.parameters())}], max_norm=None, lr=0.01)
        self.state = MasterState(
            SimpleNamespace(basic_optimizer=self.optimizer, optimizer=self.optimizer), self.task.module
        )
        self.state.reset_optimizer(0)
        self.average = MovingAverage(self.state, 0.9)
        self.folder = folder
        self.step = 0
        self.checkpoints = Checkpoints(
            folder / "checkpoints",
            runtime=ALONE,
            task=self.task,  # type: ignore[arg-type]
            state=self.state,
            average=self.average,
            settings=SETTINGS,
            policy=SimpleNamespace(  # type: ignore[arg-type]
                **{"keep_last": 2, "keep_every": None, "keep_best": None, "save_failures": 0, **policy}
            ),
            commit=COMMIT,
        )

    def advance(self) -> None:
        """One optimizer step."""
        self.step += 1
        generator = torch.Generator().manual_seed(self.step)
        for parameter in self.task.module.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        self.optimizer.step()
        self.average.update(self.step)

    def save(self, before: Callable[[], None] = lambda: None) -> None:
        """Begin a checkpoint of the present step."""
        self.checkpoints.save(self.step, counters={"data/read": self.step}, before=before)

    def load(self, source: Path | None = None) -> int:
        """Load from the run's folder, or from another; returns the step."""
        self.step, _ = self.checkpoints.load(source or self.folder)
        return self.step

    def sums(self) -> dict[str, str]:
        """Checksum of every live tensor, found without the code that saves."""
        found: dict[str, Tensor] = {}
        for name, parameter in self.task.module.named_parameters():
            found[f"model/{name}"] = parameter
            for key in MOMENTS:
                found[f"optimizer/{key}/{name}"] = self.optimizer.state[parameter][key]
        names = [name for name, _ in self.task.module.named_parameters()]
        found |= {f"ema/{name}": shard for name, shard in zip(names, self.average.shards, strict=True)}
        return {name: hashlib.sha256(value.detach().numpy().tobytes()).hexdigest() for name, value in found.items()}


def stored_sums(manifest: dict[str, Any]) -> dict[str, str]:
    """Checksums in a manifest under the names of `SmallRun.sums`; saved buffers are left out."""
    return {
        f"{file.removesuffix('.safetensors')}/{name}": known["sha256"]
        for file, entry in manifest["files"].items()
        for name, known in entry.get("tensors", {}).items()
        if name != "table"
    }
